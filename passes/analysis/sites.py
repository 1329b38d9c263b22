"""Nodes as configs see them: name, op type, and the modules they run in."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from graphpress.ir.graph import Node
from graphpress.ir.location import ModuleScope as LocationScope
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.configs import ModuleScope, ModuleStack, OpSite
from graphpress.passes.quantization.weights import is_weight


def site_of(node: Node, constant: Collection[int]) -> OpSite:
    """`node` as a config addresses it; `constant` has the ``id`` of every value that depends on constants only."""
    states: list[str] = []
    for name, _, value in node.operand_values():
        if id(value) in constant:
            root = root_constant(value)
            states += [name, *(n.rpartition(".")[2] for n in (root.names if root is not None else ()))]
            states += ["weight"] if is_weight(node, name, value) else []
    return OpSite(node.name, node.op.family, _stack(node.location.scopes), states=tuple(dict.fromkeys(states)))


@lru_cache(maxsize=4096)
def _stack(scopes: tuple[LocationScope, ...]) -> ModuleStack:
    return tuple(ModuleScope(scope.path, (scope.type_name,)) for scope in scopes) or (ModuleScope(""),)

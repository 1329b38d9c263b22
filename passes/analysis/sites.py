"""Config addresses of nodes: name, op type and module stack."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from graphpress.ir.graph import Node, Value
from graphpress.ir.location import ModuleScope as LocationScope
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.analysis.weights import is_weight
from graphpress.passes.config import ModuleScope, ModuleStack, OpSite


def site_of(node: Node, constant: Collection[int]) -> OpSite:
    """Return the config address of `node`; `constant` has the ``id`` of every value that depends on constants only."""
    states: list[str] = []
    for name, _, value in node.operand_values():
        if id(value) in constant:
            root = root_constant(value)
            states += [name, *(n.rpartition(".")[2] for n in (root.names if root is not None else ()))]
            states += ["weight"] if is_weight(node, name, value) else []
    return OpSite(
        node.name,
        node.op.family,
        stack_of(node),
        tuple(name for name, _, _ in tensor_operands(node)),
        _result_names(len(node.results)),
        tuple(dict.fromkeys(states)),
    )


def stack_of(node: Node) -> ModuleStack:
    """Return the modules that `node` runs in, the root first."""
    return _stack(node.location.scopes)


def tensor_operands(node: Node) -> list[tuple[str, int | None, Value]]:
    """Return the tensor operands of `node` in parameter order, which is the input order of configs."""
    order = {parameter.name: place for place, parameter in enumerate(node.op.parameters)}
    operands = [item for item in node.operand_values() if isinstance(item[2].type, TensorType)]
    return sorted(operands, key=lambda item: (order.get(item[0], 0), item[1] or 0))


@lru_cache(maxsize=64)
def _result_names(count: int) -> tuple[str, ...]:
    return ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))


@lru_cache(maxsize=4096)
def _stack(scopes: tuple[LocationScope, ...]) -> ModuleStack:
    return tuple(ModuleScope(scope.path, (scope.type_name,)) for scope in scopes) or (ModuleScope(""),)

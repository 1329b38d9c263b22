"""Who reads which weight, and what a config says about it there."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from graphpress.ir.graph import Constant, Node, Value
from graphpress.passes.analysis.value_preserving import preserves_values
from graphpress.passes.configs import ConfigResolver, Decision, OpSite
from graphpress.passes.quantization.weights import is_weight


@frozen(eq=False)
class WeightReader:
    """A node that reads a weight, and what the config says about it there. `constant` is None for computed weights."""

    node: Node
    value: Value
    constant: Constant | None
    op_type: str
    decision: Decision


def weight_readers(node: Node, site: OpSite, resolver: ConfigResolver, constant: set[int]) -> Iterator[WeightReader]:
    """What of the weights that `node` reads a config may speak of: floating constants of two axes or more, and what is
    computed from constants where the config does speak of it. `constant` is what `constant_values` gives.
    """
    for name, _, value in node.operand_values():
        if id(value) not in constant or not is_weight(node, name, value):
            continue
        root, moved = _behind_views(value)
        decision = _decision(resolver, site, name, root)
        if root is not None and root.type.dtype.is_floating and root.type.rank >= 2:
            yield WeightReader(node, value, root, "" if moved else node.op.family, decision)
        elif root is None and decision.spec is not None:
            yield WeightReader(node, value, None, node.op.family, decision)


def _behind_views(value: Value) -> tuple[Constant | None, bool]:
    """The constant that `value` is, or has the elements of; and whether they are arranged in another way."""
    moved = False
    while value.node is not None:
        operands = [operand for _, _, operand in value.node.operand_values()]
        if len(operands) != 1 or not preserves_values(value.node):
            return None, moved
        value, moved = operands[0], True
    return value.constant, moved


def _decision(resolver: ConfigResolver, site: OpSite, operand: str, root: Constant | None) -> Decision:
    """The config speaks of a parameter by its name in its module; the name of the operand does as well."""
    decision = resolver.explain_state(site, operand)
    for name in root.names if root is not None else ():
        if decision.spec is None and not (decision.explicit and decision.is_specific):
            decision = resolver.explain_state(site, name.rpartition(".")[2])
    return decision


def rank_of(reader: WeightReader) -> tuple[bool, int, int]:
    """Of several readers of one weight, the decision of the greatest holds."""
    decision = reader.decision
    return decision.explicit, int(decision.level), int(decision.op_level or 0)

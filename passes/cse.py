"""Common subexpression elimination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from attrs import frozen

from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.location import Location
from graphpress.ir.ops import OpDef, Trait
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.tensors import tensor_digest
from graphpress.passes.framework import EXACT, Pass, PassContext, register_pass

_UNMERGEABLE = (Trait.RANDOM, Trait.OPAQUE)


@register_pass
@frozen
class Cse(Pass):
    """Merge nodes with equal ops, operands and attributes, and constants with equal content.

    Sound because a pure op that is not random has equal results for equal operands and attributes. Swapping the two
    operands of a commutative op changes no bit, so these count as equal. A graph with in-place ops is not changed,
    because there equal nodes may be distinct memory. The remaining node gets the locations of the merged ones.

    Attributes:
        tie_weights: also merge equal parameters and buffers. They are one tensor with several names from then on, so
            training would move them together; literals are merged in any case.
    """

    tie_weights: bool = False
    effect = EXACT
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Merge constants, then nodes in execution order."""
        for node in graph.nodes_of(lambda op: op.has(Trait.IN_PLACE)):
            context.report(node, "writes to its operand; nothing was merged")
            return
        for kept, twin in self._equal_constants(graph):
            rewriter.replace_uses(twin.value, kept.value)
            kept.names = tuple(dict.fromkeys((*kept.names, *twin.names)))
            rewriter.erase_constant(twin)
            context.count("constants")
        self._merge_nodes(graph, rewriter, context)

    @staticmethod
    def _merge_nodes(graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Redirect each node to the first of its equals when it is reached, so that its operands are rebuilt once.

        Merging one pair at a time would copy a long list of operands for every pair among them.
        """
        seen: dict[Any, Node] = {}
        kept_values: dict[Value, Value] = {}
        twins: dict[Node, Node] = {}
        for node in graph.nodes:
            if kept_values:
                _redirect(node, kept_values, rewriter)
            key = _key(node)
            if key is None:
                continue
            kept = seen.setdefault(key, node)
            if kept is not node:
                twins[node] = kept
                kept_values.update(zip(node.results, kept.results, strict=True))
                context.count("nodes")
        places: dict[Node, list[Location]] = {}
        for twin, kept in twins.items():
            places.setdefault(kept, [kept.location]).append(twin.location)
        for kept, locations in places.items():
            kept.location = Location.union(locations)
        for twin, kept in reversed(twins.items()):
            rewriter.replace(twin, kept.results)  # only outputs of the graph still read it

    def _equal_constants(self, graph: Graph) -> Iterator[tuple[Constant, Constant]]:
        """Pairs of a constant and a later equal one; only constants of equal type and size are hashed."""
        same_type: dict[Any, list[Constant]] = {}
        for constant in graph.constants.values():
            if constant.has_data and not constant.is_mutated and (self.tie_weights or constant.kind == "literal"):
                same_type.setdefault((constant.type, constant.kind, constant.persistent), []).append(constant)
        for constants in same_type.values():
            if len(constants) > 1:
                first: dict[str, Constant] = {}
                for constant in constants:
                    kept = first.setdefault(tensor_digest(constant.tensor), constant)
                    if kept is not constant:
                        yield kept, constant


def _redirect(node: Node, kept_values: Mapping[Value, Value], rewriter: Rewriter) -> None:
    """Let `node` read the kept values in place of those merged into them."""
    for name, operand in list(node.operands.items()):
        items = operand if isinstance(operand, tuple) else (operand,)
        if any(isinstance(item, Value) and item in kept_values for item in items):
            kept = [kept_values.get(item, item) if isinstance(item, Value) else item for item in items]
            rewriter.set_operand(node, name, tuple(kept) if isinstance(operand, tuple) else kept[0])


def _key(node: Node) -> Any:
    """A key that is equal for nodes that may be merged; None for a node that may not."""
    op, attributes, notes = node.op, node.attributes, node.annotations
    if not _is_mergeable(op):
        return None
    operands = {name: _identity(operand) for name, operand in node.operands.items()}
    if len(operands) > 1 and _is_commutative(op) and attributes.get("alpha", 1) == 1:
        first, second = (parameter.name for parameter in op.parameters[:2])
        if first in operands and second in operands:
            operands[first], operands[second] = sorted((operands[first], operands[second]))
    try:
        return (
            op.name,
            frozenset(operands.items()),
            frozenset([(name, _typed(value)) for name, value in attributes.items()]) if attributes else None,
            frozenset([(kind, repr(note)) for kind, note in notes.items()]) if notes else None,
        )
    except TypeError:  # an attribute has no hash
        return None


@cache
def _is_mergeable(op: OpDef) -> bool:
    return op.is_pure and op.traits.isdisjoint(_UNMERGEABLE)


@cache
def _is_commutative(op: OpDef) -> bool:
    return op.has(Trait.COMMUTATIVE)


def _identity(operand: Any) -> Any:
    if isinstance(operand, Value):
        return id(operand)
    return tuple(map(_identity, operand)) if isinstance(operand, tuple) else _typed(operand)


def _typed(value: Any) -> Any:
    """`value` with its types: Python compares 1, 1.0 and True as equal, and 0.0 and -0.0."""
    if isinstance(value, tuple):
        return tuple(map(_typed, value))
    return type(value), repr(value) if isinstance(value, float) else value

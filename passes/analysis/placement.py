"""Placement of activation quantizers at the operands of matrix products and convolutions only."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve

from graphpress.ir.graph import Graph, Node, Use, Value
from graphpress.passes.analysis.constants import before_dropout, is_idle_dropout
from graphpress.passes.analysis.fusion import LAYERS, PRODUCTS
from graphpress.passes.analysis.quantization_points import Point, QuantizationPoints, Side, with_known_range
from graphpress.passes.analysis.value_preserving import only_moves_values
from graphpress.passes.config import Decision, Placement, QuantizationScheme, QuantizationSpec

MULTIPLYING = LAYERS | PRODUCTS | {"scaled_dot_product_attention"}
"""Ops that multiply matrices: the only ones with quantizers in the placement ``matmul-inputs``."""
_ADDED = frozenset({"bias", "attn_mask"})
_WITH_ADDEND = frozenset({"addmm", "baddbmm"})


def places_input(placement: Placement, op_type: str, operand: str, decision: Decision) -> bool:
    """Return True if `placement` permits the quantizer of an operand that `decision` is about."""
    if placement is Placement.EVERYWHERE or decision.names_op:
        return True
    is_addend = operand in _ADDED or (op_type in _WITH_ADDEND and operand in ("self", "input"))
    return op_type in MULTIPLYING and not is_addend


def places_output(placement: Placement, decision: Decision) -> bool:
    """Return True if `placement` permits the quantizer of a result that `decision` is about."""
    return placement is Placement.EVERYWHERE or decision.names_op


def with_range_of(spec: QuantizationSpec, value: Value) -> QuantizationSpec:
    """Adapt `spec` to what is known of `value` from the ops that compute its elements; see `with_known_range`."""
    adapted = {spec if node is None else with_known_range(spec, node) for node in _makers(value)}
    if len(adapted) == 1:
        return adapted.pop()
    if all(each.qscheme is QuantizationScheme.ASYMMETRIC for each in adapted):
        return evolve(spec, qscheme=QuantizationScheme.ASYMMETRIC)
    return spec


def _makers(value: Value) -> set[Node | None]:
    """Return the nodes before value-preserving ops that compute the elements of `value`; None for graph inputs."""
    found: set[Node | None] = set()
    waiting, seen = [before_dropout(value)], set()
    while waiting:
        node = waiting.pop().node
        if node is None or not only_moves_values(node):
            found.add(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting += [before_dropout(operand) for _, _, operand in node.operand_values()]
    return found


def without_carried_codes(graph: Graph) -> Iterator[Node]:
    """Yield the value-preserving nodes with passive points through which codes must not be carried.

    Codes are carried from the producer of a value to products only by ops with one operand, which nothing else reads,
    and one result, of which every reader has a quantizer: other readers would lose accuracy, and readers of different
    operands or parts would share a range.
    """
    carrying: set[int] = set()
    for node in reversed(list(graph.nodes)):
        points = _points(node)
        if not any(point.is_passive for point in points):
            continue
        if _is_lone_mover(node) and all(_takes_codes(use, carrying) for use in _readers(node.results[0])):
            carrying.add(id(node))
        else:
            yield node


def _points(node: Node) -> tuple[Point, ...]:
    note = node.annotation(QuantizationPoints)
    return () if note is None else note.points


def _is_lone_mover(node: Node) -> bool:
    operands = [value for _, _, value in node.operand_values()]
    return len(operands) == len(node.results) == 1 and len(list(_readers(before_dropout(operands[0])))) == 1


def _readers(value: Value) -> Iterator[Use]:
    """Yield the uses of a value, those behind dropouts in evaluation mode included."""
    for use in value.uses:
        if isinstance(use.user, Node) and is_idle_dropout(use.user):
            yield from _readers(use.user.results[0])
        else:
            yield use


def _takes_codes(use: Use, carrying: set[int]) -> bool:
    if not isinstance(use.user, Node):
        return False
    at = [p for p in _points(use.user) if p.side is Side.INPUT and (p.operand, p.index) == (use.operand, use.index)]
    return any(not point.is_passive or id(use.user) in carrying for point in at)

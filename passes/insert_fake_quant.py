"""Insertion of fake-quantize nodes at quantization points."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.facts import QUANTIZERS_INSERTED, QUANTIZERS_SHARED
from graphpress.passes.analysis.quantization_points import Point, QuantizationPoints, Quantizer, QuantizerNote, Side
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class InsertFakeQuant(Pass):
    """Insert a ``quant.fake_quantize`` at every quantization point, and remove the annotations.

    Points in floats have none.

    A fake-quantizer without parameters returns its input; after calibration it loses at most half a step for values
    within its range.
    """

    needs = frozenset({QUANTIZERS_SHARED})
    gives = frozenset({QUANTIZERS_INSERTED})
    effect = LOSSY(against="the prepared model before calibration")
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit every node once; insertions are next to the visited node."""
        for node in graph.nodes:
            note = node.annotation(QuantizationPoints)
            if note is None:
                continue
            context.node = node
            for point in note.points:
                if point.in_floats:
                    continue
                if point.side is Side.INPUT:
                    self._before(node, point, rewriter)
                else:
                    self._after(node, point, rewriter)
                context.count("inserted")
            rewriter.remove_annotation(node, QuantizationPoints)

    def _before(self, node: Node, point: Point, rewriter: Rewriter) -> None:
        made = _fake_quantize(point.value(node), node, point.quantizer, rewriter, node)
        if point.index is None:
            rewriter.set_operand(node, point.operand, made.result)
        else:
            items = list(node.operands[point.operand])
            items[point.index] = made.result
            rewriter.set_operand(node, point.operand, items)

    def _after(self, node: Node, point: Point, rewriter: Rewriter) -> None:
        value = point.value(node)
        made = _fake_quantize(value, node._next, point.quantizer, rewriter, node)
        rewriter.replace_uses(value, made.result, where=lambda use: use.user is not made)


def _fake_quantize(value: Value, before: Node | None, quantizer: Quantizer, rewriter: Rewriter, node: Node) -> Node:
    spec = quantizer.spec
    attributes: dict[str, object] = {"dtype": spec.element_type, "quantizer": quantizer.name}
    if not spec.element_type.is_floating:
        attributes |= {"quant_min": int(spec.quant_min), "quant_max": int(spec.quant_max)}
    made = rewriter.insert_before(
        before,
        "quant.fake_quantize",
        {"input": value},
        attributes,
        name=quantizer.name,
        location=node.location,
    )
    rewriter.annotate(made, QuantizerNote(quantizer))
    return made

"""Removal of redundant fake-quantizers."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.facts import QUANTIZERS_INSERTED
from graphpress.passes.analysis.quantization_points import QuantizerNote
from graphpress.passes.analysis.value_preserving import adds_zeros, preserves_values
from graphpress.passes.config import QuantizationFormulation
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class DedupFakeQuant(Pass):
    """Remove fake-quantizers of values on their grid already, and merge equal ones of one value.

    ``out -> fq -> fq -> in`` becomes ``out -> fq -> in``. Sound because a quantizer does not change values on its own
    grid, and value-preserving ops keep them on it. Two nodes have the same grid if they belong to the same quantizer.
    Zeros from padding are on every grid except one that counts from a minimum value.
    """

    needs = frozenset({QUANTIZERS_INSERTED})
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit the fake-quantizers in execution order."""
        grids: dict[int, frozenset[str]] = {}
        without_zero: set[str] = set()
        first_of: dict[tuple[int, str], Node] = {}
        for node in graph.nodes:
            if node.op.name != "quant.fake_quantize":
                if node.results and preserves_values(node):
                    grid = _common_grid(node, grids)
                    grid = grid - without_zero if adds_zeros(node) else grid
                    grids.update((id(result), grid) for result in node.results if grid)
                continue
            quantizer = node.attribute("quantizer")
            value = node.operand("input")
            assert value is not None
            if not quantizer:
                continue
            if quantizer in grids.get(id(value), ()):
                rewriter.replace(node, value)
                context.count("on its own grid")
                continue
            first = first_of.setdefault((id(value), quantizer), node)
            if first is not node:
                rewriter.replace(node, first.result)
                context.count("equal")
                continue
            grids[id(node.result)] = frozenset({quantizer})
            if _counts_from_minimum(node):
                without_zero.add(quantizer)


def _counts_from_minimum(node: Node) -> bool:
    note = node.annotation(QuantizerNote)
    formulation = None if note is None else note.quantizer.spec.qformulation
    return node.operand("minval") is not None or formulation is QuantizationFormulation.MINVAL


def _common_grid(node: Node, grids: dict[int, frozenset[str]]) -> frozenset[str]:
    """The grids that all operands of `node` are on, indices aside."""
    values: list[Value] = [value for _, _, value in node.operand_values() if value.is_floating]
    common = grids.get(id(values[0]), frozenset()) if values else frozenset()
    for value in values[1:]:
        common &= grids.get(id(value), frozenset())
    return common

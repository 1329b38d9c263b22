"""Compute and store in 16 bits."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.casting.floats import FloatCaster
from graphpress.passes.casting.integers import IntegerCaster
from graphpress.passes.framework.context import PassContext
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class Cast16Bit(Pass):
    """Turn float32 into float16, and int32 and int64 into int16 where that is safe and pays.

    Weights, inputs, outputs, what ops create and what they compute become float16. What float16 cannot hold stays
    float32, with a report, and so does what is computed from it until an op brings it back into range: an attention
    mask of -1e9 reaches its softmax as -1e9. Codes of compressed weights are left as they are; their scales and
    tables are cast.

    Sums and products of integer tensors become int16, unless something made from them is an index or a size; their
    values are then assumed to fit, as those of inputs that become int16 must.

    Lossy as 16 bits are; every op computes what it did, on rounded values.

    Attributes:
        floats: cast float32.
        integers: cast int32 and int64.
    """

    effect = LOSSY(against="the same ops on values rounded to 16 bits")

    floats: bool = True
    integers: bool = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Floats first, then integers."""
        if self.floats:
            FloatCaster(graph, rewriter, context).run()
        if self.integers:
            IntegerCaster(graph, rewriter, context).run()

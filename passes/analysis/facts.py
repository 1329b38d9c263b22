"""Facts that the built-in passes establish."""

from __future__ import annotations

from collections.abc import Iterator

from graphpress.ir.graph import Graph
from graphpress.passes.framework.facts import Fact, Violation


def _no_alias_spellings(graph: Graph) -> Iterator[Violation]:
    from graphpress.ir.ops import Trait

    for node in graph.nodes_of(lambda op: op.has(Trait.IN_PLACE)):
        yield Violation(f"{node.op.name} writes to its operand", node)


def _all_quantizers_inserted(graph: Graph) -> Iterator[Violation]:
    from graphpress.passes.analysis.quantization_points import QuantizationPoints

    for node in graph.nodes:
        if node.annotation(QuantizationPoints) is not None:
            yield Violation("its quantization points are still annotations", node)


def _no_fake_quantize(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes_of(lambda op: op.name == "quant.fake_quantize"):
        yield Violation("a fake-quantizer is left", node)


CANONICAL = Fact("canonical", "each operation has one form", _no_alias_spellings)
BATCH_NORM_FOLDED = Fact("batch-norm-folded", "no batch norm is left that folding can remove")
LAYERS_EQUALIZED = Fact("layers-equalized", "consecutive layers share the ranges of the channels between them")
NORM_WEIGHTS_FOLDED = Fact("norm-weights-folded", "no norm has a weight that the linear layers after it can hold")
LAYERS_SMOOTHED = Fact("layers-smoothed", "factors move scale from activations to the weights that read them")
RESIDUAL_ROTATED = Fact("residual-rotated", "residual streams are rotated where the model allows it")
FUSION_ANNOTATED = Fact("fusion-annotated", "nodes that a backend runs as one know their group")
QUANTIZERS_ASSIGNED = Fact("quantizers-assigned", "nodes say which of their values are quantized, and how")
QUANTIZERS_SHARED = Fact("quantizers-shared", "values that are the same data have the same quantizer")
QUANTIZERS_INSERTED = Fact("quantizers-inserted", "every quantizer is a node", _all_quantizers_inserted)
CONSTANTS_FOLDED = Fact("constants-folded", "no op depends on constants alone, compressed weights apart")
QUANTIZERS_CONVERTED = Fact("quantizers-converted", "quantized values are codes, not rounded floats", _no_fake_quantize)
BIASES_CORRECTABLE = Fact("biases-correctable", "layers with quantized weights have a correction of their bias")

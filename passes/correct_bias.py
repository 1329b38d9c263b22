"""Bias corrections for quantized layers, to be set by calibration."""

from __future__ import annotations

import torch
from attrs import frozen

from graphpress.ir.graph import Graph, Node
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.facts import BIASES_CORRECTABLE, QUANTIZERS_INSERTED
from graphpress.passes.analysis.layers import Layer, layer_of
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class CorrectBias(Pass):
    """Add a buffer of corrections to the bias of every layer whose weight is fake-quantized.

    Rounding weights and inputs shifts the mean output of each channel, and a bias can compensate the shift
    (Nagel et al., arXiv 1906.04721, section 4.2). The corrections are zero until calibration
    sets them. A layer without a bias gets one.
    """

    needs = frozenset({QUANTIZERS_INSERTED})
    gives = frozenset({BIASES_CORRECTABLE})
    effect = CLOSE(rtol=1e-5, atol=1e-6)  # a layer with a bias may run in another kernel

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Add a correction to every layer with a fake-quantized weight."""
        for node in graph.nodes:
            layer = layer_of(node)
            if layer is None or not _is_quantized(node):
                continue
            context.node = node
            channels = _channels(layer)
            if channels is None:
                context.report(node, "its number of outputs is not known")
                continue
            dtype = node.result.tensor_type.dtype.torch_dtype
            zeros = torch.zeros(channels, dtype=dtype)
            shift = rewriter.add_constant(f"{node.name}_bias_correction", zeros, "buffer")
            operands = {"shift": shift, "bias": node.operand("bias")}
            made = rewriter.insert_before(node, "fold.shift_bias", operands, name=f"{node.name}_corrected_bias")
            rewriter.set_operand(node, "bias", made.result)
            context.count("layers")


def _is_quantized(node: Node) -> bool:
    weight = node.operand("weight")
    return weight is not None and weight.node is not None and weight.node.op.name == "quant.fake_quantize"


def _channels(layer: Layer) -> int | None:
    type = layer.node.result.tensor_type
    extent = type.shape[layer.out_features_axis(type.rank)]
    return extent if isinstance(extent, int) else None

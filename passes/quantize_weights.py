"""Weight-only quantization of weight constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import ge

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.weight_readers import ReadWeight, read_weights, replace_weight
from graphpress.passes.analysis.weights import weight_block, weight_block_of
from graphpress.passes.config import AxisError, BlockSizeError, QuantizerConfig, SkippedWeight, cannot_be_cut
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights.errors import QuantizationError
from graphpress.passes.weights.quantize import quantize_weight


def _as_config(value: QuantizerConfig | Mapping[str, Any]) -> QuantizerConfig:
    return value if isinstance(value, QuantizerConfig) else QuantizerConfig.from_dict(value)


@register_pass
@frozen
class QuantizeWeights(Pass):
    """Store weights as codes with scales, without calibration data.

    A weight ``w`` becomes ``blockwise_shift_scale(w_quantized, w_scale, w_zero_point)``. A weight that several layers
    use is quantized and stored once. Of a pruned weight only the kept elements are stored if zero has code 0. Specs of
    activations need data and are ignored; the pipeline `prepare` applies them. Lossy against the weight; every node
    computes exactly with the dequantized codes.

    Attributes:
        config: the quantization config.
        leave_indivisible: True skips weights that blocks do not divide or whose axes are not known, with a report;
            False makes them an error; None makes them an error only if the entry is specific to the op or module.
        weight_num_threshold: weights of at most this many elements are skipped.
    """

    effect = LOSSY(against="the dequantized codes")
    is_idempotent = True

    config: QuantizerConfig = field(factory=QuantizerConfig, converter=_as_config)
    leave_indivisible: bool | None = None
    weight_num_threshold: int = field(default=0, validator=ge(0))

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Collect the weights, then quantize each once."""
        refused: list[SkippedWeight] = []
        for weight in read_weights(graph, self.config, context, self.weight_num_threshold):
            if weight.spec is None:
                continue
            context.node = weight.chosen.node
            try:
                block = _block(weight)
            except (AxisError, BlockSizeError) as error:
                weight.skip(error, self.leave_indivisible, refused, context)
                continue
            quantized = quantize_weight(weight.tensor, weight.spec, block, name=weight.constant.name)
            mask = None if weight.mask is None else weight.mask.value
            replace_weight(weight, quantized.expand(weight.base_name, weight.anchor, rewriter, mask), rewriter)
            context.count("quantized")
        if refused:
            raise QuantizationError(cannot_be_cut(refused))


def _block(weight: ReadWeight) -> tuple[int, ...]:
    reader, granularity = weight.chosen, weight.spec.granularity
    if not reader.is_moved:
        return weight_block(reader.node, reader.value, granularity)
    shape: Any = weight.source.tensor_type.shape
    return weight_block_of(weight.op_type, shape, granularity, weight.constant.name, None)

"""Replace weight constants by indices into lookup tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import ge

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.weight_readers import ReadWeight, read_weights, replace_weight
from graphpress.passes.config import (
    BlockSizeError,
    KMeansPalettizerConfig,
    SkippedWeight,
    SkipReason,
    cannot_be_cut,
)
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights import PalettizationError, PalettizedWeight, TooSmallError, kept_indices, palettize
from graphpress.passes.weights.quantize import shifted_and_scaled


def _as_config(value: KMeansPalettizerConfig | Mapping[str, Any]) -> KMeansPalettizerConfig:
    return value if isinstance(value, KMeansPalettizerConfig) else KMeansPalettizerConfig.from_dict(value)


@register_pass
@frozen
class PalettizeWeights(Pass):
    """Store the weights of layers as indices and tables found by k-means, as the config says.

    A weight ``w`` becomes ``lut_to_dense(w_indices, w_lut)``, with a scale per channel or a quantized table
    ``blockwise_shift_scale(lut_to_dense(w_indices, w_lut), w_scale, w_zero_point)``. A weight that several layers use
    is clustered and stored once. The zeros of a pruned weight stay zeros: with one table and no zero point only its
    kept elements have indices, ``sparse_to_dense(lut_to_dense(w_indices, w_lut), w_mask)``. Lossy against the weight;
    every node computes exactly with the dequantized table.

    `activation_aware` of a spec is reported and changes nothing: a pass has no data.

    A batch norm that is folded later goes into the scale beside the table; folded before, it is clustered along.

    Attributes:
        config: which weights, and how.
        seed: of vector clustering.
        leave_indivisible: True skips weights, with a report, that groups or vectors do not divide; False makes them an
            error; None makes them one where the config means them in particular.
        weight_num_threshold: weights of that many elements or fewer stay.
    """

    effect = LOSSY(against="the dequantized table")
    is_idempotent = True

    config: KMeansPalettizerConfig = field(factory=KMeansPalettizerConfig, converter=_as_config)
    seed: int = 0
    leave_indivisible: bool | None = None
    weight_num_threshold: int = field(default=0, validator=ge(0))

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Look at every node once, then cluster every weight once."""
        refused: list[SkippedWeight] = []
        for weight in read_weights(graph, self.config, context, self.weight_num_threshold):
            if weight.spec is not None:
                self._palettize(weight, rewriter, context, refused)
        if refused:
            raise PalettizationError(cannot_be_cut(refused))

    def _palettize(
        self, weight: ReadWeight, rewriter: Rewriter, context: PassContext, refused: list[SkippedWeight]
    ) -> None:
        node = context.node = weight.chosen.node
        name, spec, mask = weight.constant.name, weight.spec, weight.mask
        try:
            palettized = palettize(
                weight.tensor,
                spec,
                weight.op_type,
                name=name,
                seed=self.seed,
                mask=None if mask is None else mask.tensor.bool(),
            )
        except TooSmallError as error:
            too_small = SkippedWeight(weight.decision.name, SkipReason.TOO_SMALL, error.explanation, node.location)
            context.report(node, too_small)
            return
        except BlockSizeError as error:
            weight.skip(error, self.leave_indivisible, refused, context)
            return
        if spec.activation_aware:
            context.report(node, f"{name}: activation_aware needs data, which a pass has none of")
        replace_weight(weight, _stored(weight, palettized, rewriter), rewriter)
        context.count("palettized")


def _stored(weight: ReadWeight, palettized: PalettizedWeight, rewriter: Rewriter) -> Value:
    """The expansion of the table, placed before the first use of the weight."""
    base, anchor = weight.base_name, weight.anchor
    name = base.replace(".", "_")
    kept = None if weight.mask is None else kept_indices(palettized, weight.mask.tensor.bool())
    indices, table = (palettized.indices, palettized.lut) if kept is None else kept
    operands = {
        "indices": rewriter.add_constant(
            f"{base}_indices", indices, type=TensorType(palettized.index_type, indices.shape)
        ),
        "lut": rewriter.add_constant(f"{base}_lut", table),
    }
    axis = palettized.axis if kept is None else 0
    dense = rewriter.insert_before(anchor, "quant.lut_to_dense", operands, {"axis": axis}, name=f"{name}_dense").result
    if kept is not None:
        assert weight.mask is not None
        places = {"values": dense, "mask": weight.mask.value}
        dense = rewriter.insert_before(anchor, "quant.sparse_to_dense", places, name=f"{name}_sparse").result
    if palettized.scale is None:
        return dense
    parameters = {"scale": palettized.scale, "zero_point": palettized.zero_point, "minval": palettized.minval}
    dtypes = {"dtype": palettized.lut_type, "output_dtype": DType.of(palettized.dtype)}
    return shifted_and_scaled(dense, parameters, dtypes, base, "scaled", anchor, rewriter)

"""Palettization of weight constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import ge

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.weight_readers import ReadWeight, read_weights, replace_weight
from graphpress.passes.config import (
    BlockSizeError,
    ConfigResolver,
    KMeansPalettizerConfig,
    SkippedWeight,
    SkipReason,
    VectorKMeansConfig,
    cannot_be_cut,
)
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights import PalettizationError, TooSmallError, detected_mask, palettize


def _as_config(value: KMeansPalettizerConfig | Mapping[str, Any]) -> KMeansPalettizerConfig:
    return value if isinstance(value, KMeansPalettizerConfig) else KMeansPalettizerConfig.from_dict(value)


@register_pass
@frozen
class PalettizeWeights(Pass):
    """Store weights as indices into lookup tables (LUTs) found by k-means.

    A weight ``w`` becomes ``lut_to_dense(w_indices, w_lut)``, with a scale per channel or a quantized LUT
    ``blockwise_shift_scale(lut_to_dense(w_indices, w_lut), w_scale, w_zero_point)``. A weight that several layers use
    is clustered and stored once. The zeros of a pruned weight stay zeros: with one LUT and no zero point only its
    kept elements have indices, ``sparse_to_dense(lut_to_dense(w_indices, w_lut), w_mask)``. Lossy against the weight;
    every node computes exactly with the dequantized LUT.

    `activation_aware` of a spec is reported and ignored: a pass has no data.

    A batch norm folded later is applied to the scale beside the LUT; one folded before is part of the clustered weight.

    Attributes:
        config: the palettization config.
        seed: of vector clustering.
        leave_indivisible: True skips weights that groups or vectors do not divide, with a report; False makes them an
            error; None makes them an error only if the entry is specific to the op or module.
        weight_num_threshold: weights of at most this many elements are skipped.
    """

    effect = LOSSY(against="the dequantized LUT")
    is_idempotent = True

    config: KMeansPalettizerConfig = field(factory=KMeansPalettizerConfig, converter=_as_config)
    seed: int = 0
    leave_indivisible: bool | None = None
    weight_num_threshold: int = field(default=0, validator=ge(0))

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Collect the weights, then cluster each once."""
        refused: list[SkippedWeight] = []
        resolver = ConfigResolver(self.config)
        for weight in read_weights(graph, self.config, context, self.weight_num_threshold):
            if weight.spec is not None:
                module = resolver.governing(weight.chosen.site.op.module_stack).config
                vectors = getattr(module, "vector_kmeans_config", None)
                self._palettize(weight, vectors, rewriter, context, refused)
        if refused:
            raise PalettizationError(cannot_be_cut(refused))

    def _palettize(
        self,
        weight: ReadWeight,
        vectors: VectorKMeansConfig | None,
        rewriter: Rewriter,
        context: PassContext,
        refused: list[SkippedWeight],
    ) -> None:
        node = context.node = weight.chosen.node
        name, spec, mask = weight.constant.name, weight.spec, weight.mask
        kept = detected_mask(weight.tensor, spec) if mask is None else mask.tensor.bool()
        try:
            palettized = palettize(
                weight.tensor,
                spec,
                weight.op_type,
                name=name,
                seed=self.seed,
                mask=kept,
                vectors=vectors,
            )
        except TooSmallError as error:
            too_small = SkippedWeight(weight.decision.name, SkipReason.TOO_SMALL, error.explanation, node.location)
            context.report(node, too_small)
            return
        except BlockSizeError as error:
            weight.skip(error, self.leave_indivisible, refused, context)
            return
        if spec.activation_aware:
            context.report(node, f"{name}: activation_aware is ignored, because a pass has no data")
        places = None if mask is None else mask.value
        replace_weight(weight, palettized.expand(weight.base_name, weight.anchor, rewriter, places), rewriter)
        context.count("palettized")

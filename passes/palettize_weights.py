"""Replace weight constants by indices into lookup tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.sites import site_of
from graphpress.passes.analysis.weight_readers import WeightReader, rank_of, weight_readers
from graphpress.passes.configs import (
    ConfigResolver,
    KMeansPalettizerConfig,
    OpSite,
    report_unmatched,
)
from graphpress.passes.framework.context import PassContext
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.palettization import PalettizationError, PalettizedWeight, TooSmallError, palettize
from graphpress.passes.specs import BlockSizeError


def _config(value: KMeansPalettizerConfig | Mapping[str, Any]) -> KMeansPalettizerConfig:
    return value if isinstance(value, KMeansPalettizerConfig) else KMeansPalettizerConfig.from_dict(value)


@register_pass
@frozen
class PalettizeWeights(Pass):
    """Store the weights of layers as indices and tables found by k-means, as the config says.

    A weight ``w`` becomes ``lut_to_dense(w_indices, w_lut)``, with a scale per channel or a quantized table
    ``blockwise_shift_scale(lut_to_dense(w_indices, w_lut), w_scale, w_zero_point)``. A weight that several layers use
    is clustered and stored once. Lossy against the weight; every node computes exactly with the dequantized table.

    `activation_aware` of a spec is reported and changes nothing: a pass has no data.

    A batch norm that is folded later goes into the scale beside the table; folded before, it is clustered along.

    Attributes:
        config: which weights, and how.
        seed: of vector clustering.
        leave_indivisible: True leaves weights whole, with a report, that groups or vectors do not divide; False makes
            them an error; None makes them one where the config means them in particular.
    """

    effect = LOSSY(against="the dequantized table")
    is_idempotent = True

    config: KMeansPalettizerConfig = field(factory=KMeansPalettizerConfig, converter=_config)
    seed: int = 0
    leave_indivisible: bool | None = None

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Look at every node once, then cluster every weight once."""
        resolver = ConfigResolver(self.config)
        constant = constant_values(graph)
        sites: list[OpSite] = []
        readers: dict[str, list[WeightReader]] = {}
        for node in graph.nodes:
            context.node = node
            site = site_of(node, constant)
            sites.append(site)
            for reader in weight_readers(node, site, resolver, constant):
                if reader.constant is None:
                    context.report(
                        node, f"left whole: {reader.value.name} is computed; fold-constants makes it a weight"
                    )
                else:
                    readers.setdefault(reader.constant.name, []).append(reader)
        context.node = None
        report_unmatched(self.config, sites)
        errors: list[str] = []
        for group in readers.values():
            chosen = max(group, key=rank_of)
            if chosen.decision.spec is not None:
                self._palettize(chosen, group[0].node, rewriter, context, errors)
        if errors:
            lines = "".join(f"\n  {line}" for line in errors)
            raise PalettizationError(
                f"{len(errors)} weights cannot be cut as the config says (leave_indivisible=True leaves them whole):"
                f"{lines}"
            )

    def _palettize(
        self, reader: WeightReader, first: Node, rewriter: Rewriter, context: PassContext, errors: list[str]
    ) -> None:
        weight, node, spec = reader.constant, reader.node, reader.decision.spec
        assert weight is not None
        assert spec is not None
        context.node = node
        try:
            palettized = palettize(weight.tensor, spec, reader.op_type, name=weight.name, seed=self.seed)
        except TooSmallError as error:
            context.report(node, f"left whole: {error}")
            return
        except BlockSizeError as error:
            if self.leave_indivisible is False or (self.leave_indivisible is None and reader.decision.is_specific):
                errors.append(f"{error} ({node.location})")
            else:
                context.report(node, f"left whole: {error}")
            return
        if spec.activation_aware:
            context.report(node, f"{weight.name}: activation_aware needs data, which a pass has none of")
        _replace(weight, palettized, first, rewriter)
        context.count("palettized")


def _replace(weight: Constant, palettized: PalettizedWeight, first: Node, rewriter: Rewriter) -> None:
    """Let every use of `weight` read one expansion of the table, placed before the first of them."""
    base = weight.name.removesuffix("_folded")
    indices = rewriter.add_constant(
        f"{base}_indices",
        palettized.indices,
        type=TensorType(palettized.index_type, palettized.indices.shape),
    )
    lut = rewriter.add_constant(f"{base}_lut", palettized.lut)
    users = {user.name for user in weight.value.users}
    anchor = next((node for node in rewriter.graph.nodes if node.name in users), first)
    name = base.replace(".", "_")
    made = rewriter.insert_before(
        anchor, "quant.lut_to_dense", {"indices": indices, "lut": lut}, {"axis": palettized.axis}, name=f"{name}_dense"
    )
    dense = made.result
    if palettized.scale is not None:
        operands: dict[str, Value | None] = {"input": dense}
        for part in ("scale", "zero_point", "minval"):
            tensor = getattr(palettized, part)
            operands[part] = None if tensor is None else rewriter.add_constant(f"{base}_{part}", tensor)
        attributes = {"dtype": palettized.lut_type, "output_dtype": DType.of(palettized.dtype)}
        dense = rewriter.insert_before(
            anchor, "quant.blockwise_shift_scale", operands, attributes, name=f"{name}_scaled"
        ).result
    rewriter.replace_uses(weight.value, dense)
    if not weight.value.use_count:
        rewriter.erase_constant(weight)

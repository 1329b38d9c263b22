"""Replace weight constants by their largest elements and a mask of where these stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from graphpress.ir.graph import Constant, Graph, Node
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.sites import site_of
from graphpress.passes.analysis.weight_readers import WeightReader, rank_of, weight_readers
from graphpress.passes.configs import ConfigResolver, MagnitudePrunerConfig, OpSite, report_unmatched
from graphpress.passes.framework.context import PassContext
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.pruning import is_smaller_sparse, pruning_mask


def _config(value: MagnitudePrunerConfig | Mapping[str, Any]) -> MagnitudePrunerConfig:
    return value if isinstance(value, MagnitudePrunerConfig) else MagnitudePrunerConfig.from_dict(value)


@register_pass
@frozen
class PruneWeights(Pass):
    """Let the smallest elements of weights, or their smallest channels, be zeros, as the config says.

    A weight ``w`` becomes ``sparse_to_dense(w_nonzero_data, w_mask)``, or a constant with zeros where a mask would
    take more space than it saves. A weight that several layers use is pruned and stored once. Lossy against the weight;
    every node computes exactly with the pruned one.

    Attributes:
        config: which weights, and how. Schedules are for training; here every weight reaches its target.
    """

    effect = LOSSY(against="the pruned weight")
    is_idempotent = True

    config: MagnitudePrunerConfig = field(factory=MagnitudePrunerConfig, converter=_config)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Look at every node once, then prune every weight once."""
        resolver = ConfigResolver(self.config)
        constant = constant_values(graph)
        sites: list[OpSite] = []
        readers: dict[str, list[WeightReader]] = {}
        for node in graph.nodes:
            context.node = node
            site = site_of(node, constant)
            sites.append(site)
            for reader in weight_readers(node, site, resolver, constant):
                if reader.constant is not None:
                    readers.setdefault(reader.constant.name, []).append(reader)
                elif not _is_sparse(reader):
                    context.report(
                        node, f"left whole: {reader.value.name} is computed; fold-constants makes it a weight"
                    )
        context.node = None
        report_unmatched(self.config, sites)
        for group in readers.values():
            chosen = max(group, key=rank_of)
            weight, spec = chosen.constant, chosen.decision.spec
            if weight is None or spec is None:
                continue
            context.node = chosen.node
            _replace(weight, pruning_mask(weight.tensor, spec, name=weight.name), group[0].node, rewriter)
            context.count("pruned")


def _is_sparse(reader: WeightReader) -> bool:
    made = reader.value.node
    return made is not None and made.op.name == "quant.sparse_to_dense"


def _replace(weight: Constant, mask: Tensor, first: Node, rewriter: Rewriter) -> None:
    """Let every use of `weight` read the pruned one, expanded before the first of them."""
    values = weight.tensor.detach()
    if not is_smaller_sparse(mask, weight.type.dtype.bits):
        pruned = torch.where(mask, values, torch.zeros_like(values))
        if not torch.equal(pruned, values):
            rewriter.replace_constant(weight, pruned)
        return
    base = weight.name.removesuffix("_folded")
    operands = {
        "values": rewriter.add_constant(f"{base}_nonzero_data", values[mask]),
        "mask": rewriter.add_constant(f"{base}_mask", mask),
    }
    users = {user.name for user in weight.value.users}
    anchor = next((node for node in rewriter.graph.nodes if node.name in users), first)
    dense = rewriter.insert_before(
        anchor, "quant.sparse_to_dense", operands, name=f"{base.replace('.', '_')}_dense"
    ).result
    rewriter.replace_uses(weight.value, dense)
    if not weight.value.use_count:
        rewriter.erase_constant(weight)

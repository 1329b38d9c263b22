"""Replace weight constants by their largest elements and a mask of where these stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.weight_readers import ReadWeight, read_weights, replace_weight
from graphpress.passes.config import MagnitudePrunerConfig
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights import is_smaller_sparse, pruning_mask


def _as_config(value: MagnitudePrunerConfig | Mapping[str, Any]) -> MagnitudePrunerConfig:
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
        weight_num_threshold: weights of that many elements or fewer stay.
    """

    effect = LOSSY(against="the pruned weight")
    is_idempotent = True

    config: MagnitudePrunerConfig = field(factory=MagnitudePrunerConfig, converter=_as_config)
    weight_num_threshold: int = field(default=0, validator=ge(0))

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Look at every node once, then prune every weight once."""
        for weight in read_weights(graph, self.config, context, self.weight_num_threshold):
            if weight.spec is None or weight.mask is not None:
                continue
            context.node = weight.chosen.node
            _prune(weight, pruning_mask(weight.tensor, weight.spec, name=weight.constant.name), rewriter)
            context.count("pruned")


def _prune(weight: ReadWeight, mask: Tensor, rewriter: Rewriter) -> None:
    """Let every use of `weight` read the pruned one, expanded before the first of them."""
    values = weight.tensor
    if not is_smaller_sparse(mask, weight.constant.type.dtype.bits):
        pruned = torch.where(mask, values, torch.zeros_like(values))
        if not torch.equal(pruned, values):
            rewriter.replace_constant(weight.constant, pruned)
        return
    base = weight.base_name
    operands = {
        "values": rewriter.add_constant(f"{base}_nonzero_data", values[mask]),
        "mask": rewriter.add_constant(f"{base}_mask", mask),
    }
    name = f"{base.replace('.', '_')}_dense"
    dense = rewriter.insert_before(weight.anchor, "quant.sparse_to_dense", operands, name=name).result
    replace_weight(weight, dense, rewriter)

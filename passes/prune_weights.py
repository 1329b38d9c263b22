"""Magnitude pruning of weight constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import ge

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.weight_readers import ReadWeight, read_weights, replace_weight
from graphpress.passes.config import MagnitudePrunerConfig
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights import PrunedWeight, pruning_mask


def _as_config(value: MagnitudePrunerConfig | Mapping[str, Any]) -> MagnitudePrunerConfig:
    return value if isinstance(value, MagnitudePrunerConfig) else MagnitudePrunerConfig.from_dict(value)


@register_pass
@frozen
class PruneWeights(Pass):
    """Set the smallest elements or channels of weights to zero.

    A weight ``w`` becomes ``sparse_to_dense(w_nonzero_data, w_mask)``, or a constant with zeros if a mask would
    take more space than it saves. A weight that several layers use is pruned and stored once. Lossy against the weight;
    every node computes exactly with the pruned one.

    Attributes:
        config: the pruning config. Schedules are for training; here every weight reaches its target.
        weight_num_threshold: weights of at most this many elements are skipped.
    """

    effect = LOSSY(against="the pruned weight")
    is_idempotent = True

    config: MagnitudePrunerConfig = field(factory=MagnitudePrunerConfig, converter=_as_config)
    weight_num_threshold: int = field(default=0, validator=ge(0))

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Collect the weights, then prune each once."""
        for weight in read_weights(graph, self.config, context, self.weight_num_threshold):
            if weight.spec is None or weight.mask is not None:
                continue
            context.node = weight.chosen.node
            mask = pruning_mask(weight.tensor, weight.spec, name=weight.constant.name)
            _store(weight, PrunedWeight.of(weight.tensor, mask), rewriter)
            context.count("pruned")


def _store(weight: ReadWeight, pruned: PrunedWeight, rewriter: Rewriter) -> None:
    """Redirect every use of `weight` to the pruned one; one that is stored dense keeps its names."""
    if pruned.is_sparse:
        replace_weight(weight, pruned.expand(weight.base_name, weight.anchor, rewriter), rewriter)
    elif not pruned.tensor.equal(weight.tensor):
        rewriter.replace_constant(weight.constant, pruned.tensor)

"""The stored weights of a graph, who reads them, and what a config makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from attrs import evolve, frozen

from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.sites import WeightReading, parameter_name, site_of, weights_read
from graphpress.passes.analysis.weights import dense_weight, sparse_parts
from graphpress.passes.config import (
    AxisError,
    BlockSizeError,
    CompressionConfig,
    ConfigResolver,
    Indivisible,
    Obstacle,
    OpSite,
    SkippedWeight,
    SkipReason,
    Taken,
    WeightDecision,
    WeightResolver,
    WeightSite,
    indivisible,
    report_unmatched,
)
from graphpress.passes.framework.passes import PassContext


@frozen(eq=False)
class ReadWeight:
    """A weight that is stored, with all that read it, in the order of the graph.

    Attributes:
        source: the value of a constant, or ``quant.sparse_to_dense`` of kept elements and a mask.
        readers: at least one.
        decision: what the config makes of it.
        places: of all nodes of the graph, by their names.
    """

    source: Value
    readers: tuple[WeightReading, ...]
    decision: WeightDecision
    places: Mapping[str, int]

    @property
    def chosen(self) -> WeightReading:
        """The reader for which the config decides."""
        return self.readers[self.decision.place]

    @property
    def op_type(self) -> str:
        """Of the chosen reader; empty where that reads the elements arranged in another way."""
        return "" if self.chosen.is_moved else self.chosen.node.op.family

    @property
    def spec(self) -> Any:
        """What is to become of it; None where it stays."""
        return self.decision.spec

    @property
    def constant(self) -> Constant:
        """Its elements, or the kept ones of a pruned weight."""
        parts = sparse_parts(self.source)
        found = (self.source if parts is None else parts[0]).constant
        assert found is not None
        return found

    @property
    def mask(self) -> Constant | None:
        """Where the kept elements of a pruned weight stand; None for other weights."""
        parts = sparse_parts(self.source)
        return None if parts is None else parts[1].constant

    @property
    def tensor(self) -> torch.Tensor:
        """All its elements."""
        found = dense_weight(self.source)
        assert found is not None
        return found.detach()

    @property
    def base_name(self) -> str:
        """The name of the parameter that the constant was made from."""
        return parameter_name(self.constant.name)

    @property
    def anchor(self) -> Node:
        """The first node that uses it."""
        return min(self.source.users, key=lambda node: self.places[node.name])

    def skip(
        self,
        error: AxisError | BlockSizeError,
        leave_indivisible: bool | None,
        refused: list[SkippedWeight],
        context: PassContext,
    ) -> None:
        """Skip a weight that blocks or groups do not divide, or add it to `refused`, as the option says."""
        node = self.chosen.node
        record = indivisible(self.decision.name, error, node.location)
        if Indivisible.of(leave_indivisible).refuses(error, is_specific=self.decision.is_specific):
            refused.append(record)
        else:
            context.report(node, record)


def read_weights(
    graph: Graph, config: CompressionConfig, context: PassContext, weight_num_threshold: int = 0
) -> list[ReadWeight]:
    """The weights that are stored in `graph` and what `config` makes of them, those that it does not mean included.

    Weights that it means and that are computed, written to, or not named are reported; entries that match nothing are
    an error or a warning.

    Args:
        graph: the model.
        config: which weights, and how.
        context: of the pass.
        weight_num_threshold: weights of that many elements or fewer are left out.
    """
    resolver = WeightResolver(ConfigResolver(config), Taken.FACTORS)
    constant = constant_values(graph)
    sites: list[OpSite] = []
    groups: dict[int, list[WeightReading]] = {}
    places: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        places[node.name] = place
        context.node = node
        site = site_of(node, constant)
        sites.append(site)
        for reading in weights_read(node, site, constant):
            if reading.stored is None or _can_be_replaced(reading.stored, weight_num_threshold):
                groups.setdefault(id(reading.stored or reading.origin), []).append(reading)
    context.node = None
    report_unmatched(config, sites)
    found = []
    for readers in groups.values():
        source = readers[0].stored
        described = [each.site if source is not None else _computed(each) for each in readers]
        decision = resolver.decide(readers[0].name, described)
        if decision.skipped is not None:
            context.report(readers[decision.place].node, decision.skipped)
        if source is not None:
            found.append(ReadWeight(source, tuple(readers), decision, places))
    return found


def replace_weight(weight: ReadWeight, stored: Value, rewriter: Rewriter) -> None:
    """Let every use of `weight` read `stored`, and drop what nothing reads any more."""
    parts = (weight.constant, *(() if weight.mask is None else (weight.mask,)))
    expansion = weight.source.node
    rewriter.replace_uses(weight.source, stored)
    if expansion is not None and expansion.is_dead:
        rewriter.erase(expansion)
    for part in parts:
        if not part.value.use_count:
            rewriter.erase_constant(part)


def _can_be_replaced(stored: Value, threshold: int) -> bool:
    shape: tuple[int, ...] = stored.tensor_type.shape  # type: ignore[assignment]  # that of a constant
    return stored.tensor_type.dtype.is_floating and len(shape) >= 2 and prod(shape) > threshold


def _computed(reading: WeightReading) -> WeightSite:
    """The site of a weight that is not stored; a pass over weights cannot replace it."""
    computed = Obstacle(SkipReason.COMPUTED, f"{reading.value.name} computes it; fold-constants makes it a weight")
    return evolve(reading.site, obstacle=reading.site.obstacle or computed)

"""Who reads which weight, and what a config says about it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from attrs import frozen

from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.sites import site_of
from graphpress.passes.analysis.value_preserving import preserves_values
from graphpress.passes.analysis.weights import dense_weight, is_weight, sparse_parts
from graphpress.passes.config import CompressionConfig, ConfigResolver, Decision, OpSite, report_unmatched
from graphpress.passes.framework.passes import PassContext


class WholeWeightsWarning(UserWarning):
    """Weights that a config speaks of and that are left as they are."""


@frozen(eq=False)
class WeightReader:
    """A node that reads a weight, and what the config says about it there.

    Attributes:
        node: that reads it.
        value: as the node reads it.
        source: the constant, or the expansion of a pruned one, that `value` has the elements of; None where it is
            computed.
        op_type: of the node; empty where it reads the elements arranged in another way.
        decision: of the config.
    """

    node: Node
    value: Value
    source: Value | None
    op_type: str
    decision: Decision


@frozen(eq=False)
class ReadWeight:
    """A weight that is stored, with all that read it, in the order of the graph.

    Attributes:
        source: the value of a constant, or ``quant.sparse_to_dense`` of kept elements and a mask.
        readers: at least one.
        places: of all nodes of the graph, by their names.
    """

    source: Value
    readers: tuple[WeightReader, ...]
    places: Mapping[str, int]

    @property
    def chosen(self) -> WeightReader:
        """The reader whose decision holds: the config speaks of it most in particular."""
        return max(self.readers, key=_rank)

    @property
    def spec(self) -> Any:
        """What is to become of it; None where it stays."""
        return self.chosen.decision.spec

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
        return self.constant.name.removesuffix("_folded").removesuffix("_nonzero_data")

    @property
    def anchor(self) -> Node:
        """The first node that uses it."""
        return min(self.source.users, key=lambda node: self.places[node.name])

    def leave_whole(
        self, error: Exception, leave_indivisible: bool | None, errors: list[str], context: PassContext
    ) -> None:
        """Tell that blocks or groups do not divide it: among `errors` where that is asked for, or, with None, where the
        config means this weight in particular; else in a report.
        """
        node = self.chosen.node
        if leave_indivisible is False or (leave_indivisible is None and self.chosen.decision.is_specific):
            errors.append(f"{error} ({node.location})")
        else:
            context.report(node, f"left whole: {error}")


def read_weights(
    graph: Graph, config: CompressionConfig, context: PassContext, weight_num_threshold: int = 0
) -> list[ReadWeight]:
    """The weights that `config` may speak of, those it says nothing about included; entries that match nothing, and
    weights that are computed, are reported.

    Args:
        graph: the model.
        config: which weights, and how.
        context: of the pass.
        weight_num_threshold: weights of that many elements or fewer are left out.
    """
    resolver = ConfigResolver(config)
    constant = constant_values(graph)
    sites: list[OpSite] = []
    readers: dict[int, list[WeightReader]] = {}
    places: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        places[node.name] = place
        context.node = node
        site = site_of(node, constant)
        sites.append(site)
        for reader in _readers(node, site, resolver, constant):
            if reader.source is None:
                context.report(node, f"left whole: {reader.value.name} is computed; fold-constants makes it a weight")
            elif _numel(reader.source) > weight_num_threshold:
                readers.setdefault(id(reader.source), []).append(reader)
    context.node = None
    report_unmatched(config, sites)
    return [
        ReadWeight(group[0].source, tuple(group), places) for group in readers.values() if group[0].source is not None
    ]


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


def cannot_be_cut(errors: Sequence[str]) -> str:
    """The message for weights that are not as the config wants them, a line each."""
    lines = "".join(f"\n  {line}" for line in errors)
    return f"{len(errors)} weights cannot be cut as the config says (leave_indivisible=True leaves them whole):{lines}"


def _readers(node: Node, site: OpSite, resolver: ConfigResolver, constant: set[int]) -> Iterator[WeightReader]:
    """What of the weights that `node` reads a config may speak of: floating constants of two axes or more, pruned or
    not, and what is computed from constants where the config does speak of it.
    """
    for name, _, value in node.operand_values():
        if id(value) not in constant or not is_weight(node, name, value):
            continue
        source, moved = _behind_views(value)
        decision = _decision(resolver, site, name, source)
        if source is not None and source.tensor_type.dtype.is_floating and source.tensor_type.rank >= 2:
            yield WeightReader(node, value, source, "" if moved else node.op.family, decision)
        elif source is None and decision.spec is not None:
            yield WeightReader(node, value, None, node.op.family, decision)


def _numel(value: Value) -> int:
    shape: tuple[int, ...] = value.tensor_type.shape  # type: ignore[assignment]  # that of a constant
    return prod(shape)


def _behind_views(value: Value) -> tuple[Value | None, bool]:
    """What is stored that `value` has the elements of; and whether they are arranged in another way."""
    moved = False
    while value.node is not None:
        if (parts := sparse_parts(value)) is not None:
            return (value if all(part.constant is not None for part in parts) else None), moved
        operands = [operand for _, _, operand in value.node.operand_values()]
        if len(operands) != 1 or not preserves_values(value.node):
            return None, moved
        value, moved = operands[0], True
    return (None if value.constant is None else value), moved


def _decision(resolver: ConfigResolver, site: OpSite, operand: str, source: Value | None) -> Decision:
    """The config speaks of a parameter by its name in its module; the name of the operand, and "weight", do too."""
    decision = resolver.explain_state(site, operand)
    constant = None if source is None else source.constant
    names = [name.rpartition(".")[2] for name in constant.names] if constant is not None else []
    for name in (*names, "weight"):
        if decision.spec is None and not (decision.explicit and decision.is_specific):
            decision = resolver.explain_state(site, name)
    return decision


def _rank(reader: WeightReader) -> tuple[bool, int, int]:
    decision = reader.decision
    return decision.explicit, int(decision.level), int(decision.op_level or 0)

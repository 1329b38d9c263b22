"""Resolution of a quantization config to quantization points."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from attrs import evolve, field, frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.boundaries import boundaries, is_float
from graphpress.passes.analysis.caches import cache_update, sources
from graphpress.passes.analysis.constants import constant_values, is_idle_dropout, root_constant
from graphpress.passes.analysis.exact_values import exact_values
from graphpress.passes.analysis.facts import FUSION_ANNOTATED, QUANTIZERS_ASSIGNED
from graphpress.passes.analysis.fusion import (
    CLAMPS,
    COMPUTED_IN_FLOATS,
    OPERANDS_IN_FLOATS,
    RESULTS_IN_FLOATS,
    FusionGroup,
    Role,
)
from graphpress.passes.analysis.placement import places_input, places_output, with_range_of, without_carried_codes
from graphpress.passes.analysis.quantization_points import (
    Point,
    QuantizationPoints,
    Quantizer,
    Side,
    activation_block,
    with_known_range,
)
from graphpress.passes.analysis.sites import WeightReading, site_of, tensor_operands, weight_read, weights_read
from graphpress.passes.analysis.value_preserving import only_moves_values
from graphpress.passes.analysis.weights import is_compressed, is_weight, weight_block
from graphpress.passes.config import (
    AxisError,
    BlockSizeError,
    ConfigResolver,
    Decision,
    Indivisible,
    ModuleLevel,
    ModuleScope,
    OpSite,
    Placement,
    QATSchedule,
    QuantizationSpec,
    QuantizerConfig,
    Taken,
    UncutWeight,
    WeightResolver,
    cannot_be_cut,
    report_unmatched,
)
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights.errors import QuantizationError
from graphpress.passes.weights.quantize import require_finite


def _config(value: QuantizerConfig | Mapping[str, Any]) -> QuantizerConfig:
    return value if isinstance(value, QuantizerConfig) else QuantizerConfig.from_dict(value)


@register_pass
@frozen
class AssignQuantizers(Pass):
    """Annotate nodes with quantization points for their operands, results and weights.

    A fusion group is treated as one op: its anchor is configured and reads the inputs, its last op produces the result.
    Value-preserving ops get passive points, which follow their neighbours, and so do operands of ops that no backend
    computes on codes (`COMPUTED_IN_FLOATS`), and results of clamps, unless an entry of the config names the op, its
    type or its module. Of ops outside of every group, such as recurrent ones, only the weights are quantized. Each use
    of a weight has its own point, so layers may quantize a tied weight differently; a weight that is computed from
    constants is quantized where it is read. Angles, divisors, scores and numbers made from integers
    (`analysis.exact_values`) have points only where an entry of the config names the op or its type; 0-d tensors, which
    no backend quantizes, have none. In the placement ``matmul-inputs`` a spec for all ops applies to the operands of
    matrix products only, and value-preserving ops have points only if nothing but these reads their results. Only
    annotations are added, so the numbers cannot change.

    Attributes:
        config: the quantization config.
        leave_indivisible: True skips weights that blocks do not divide, with a report; False makes them an error; None
            makes them an error only if the config selects them in particular, or if no other weight is quantized.
        silent_modules: path and class of the modules of the model in which no op runs, such as dropouts; config
            entries that match them are not reported as unmatched.
    """

    needs = frozenset({FUSION_ANNOTATED})
    gives = frozenset({QUANTIZERS_ASSIGNED})
    is_idempotent = True

    config: QuantizerConfig = field(factory=QuantizerConfig, converter=_config)
    leave_indivisible: bool | None = None
    silent_modules: Mapping[str, str] = field(factory=dict)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Add the points of every node."""
        assignment = _Assignment(self, graph, rewriter, context)
        for node in graph.nodes:
            context.node = node
            assignment.visit(node)
        context.node = None
        assignment.restrict_carrying(graph)
        assignment.report_unmatched()
        assignment.skip_or_refuse_uncut()


@frozen(eq=False)
class _WeightPoint:
    """A weight operand of a node, read by the node or by a subgraph that it runs."""

    name: str
    operand: str
    index: int | None
    reading: WeightReading


class _Assignment:
    def __init__(self, options: AssignQuantizers, graph: Graph, rewriter: Rewriter, context: PassContext):
        self._options = options
        self._rewriter = rewriter
        self._context = context
        self._resolver = ConfigResolver(options.config)
        self._constant = constant_values(graph)
        self._exact = exact_values(graph, self._constant)
        self._boundaries = boundaries(graph, self._resolver, self._constant)
        self._anchors: dict[str, OpSite] = {}
        self._uncut: list[tuple[Node, UncutWeight]] = []
        self._cuts_others = False
        self._weights = WeightResolver(self._resolver, Taken.FACTORS)
        self.sites: list[OpSite] = []

    def visit(self, node: Node) -> None:
        site = site_of(node, self._constant)
        self.sites.append(site)
        inner = [attribute for attribute in node.attributes.values() if isinstance(attribute, Graph)]
        if inner:
            self._context.report(node, "only weights are quantized in the subgraphs that it runs")
        group = node.annotation(FusionGroup)
        cache = self._resolver.cache_entry(site)
        if cache is not None:
            points = self._cache_points(node, site, *cache)
        elif group is not None:
            if group.role in (Role.ANCHOR, Role.WHOLE):
                self._anchors[node.name] = site
            points = list(self._group_points(node, site, group))
        elif is_idle_dropout(node):  # the identity in evaluation: its readers share the quantizer of its operand
            points = []
        elif only_moves_values(node):
            points = [*self._inputs(node, site, passive=True), *self._outputs(node, site, passive=True)]
        else:  # no backend computes this op on codes, but its weights can be stored as codes
            points = list(self._weight_points(node, site))
        if cache is None and self._resolver.has_boundaries:
            points = self._with_boundaries(node, points)
        if points:
            anchor = site if group is None else self._anchors.get(group.anchor, site)
            schedule = self._resolver.training_schedule(anchor.module_stack)
            points = points if schedule is None else [_scheduled(point, schedule) for point in points]
            self._rewriter.annotate(node, QuantizationPoints(tuple(points)))
            self._context.count("points", len(points))

    def restrict_carrying(self, graph: Graph) -> None:
        """Remove the points of value-preserving ops whose results others than products read."""
        if self._resolver.placement is Placement.MATMUL_INPUTS:
            for node in list(without_carried_codes(graph)):
                self._rewriter.remove_annotation(node, QuantizationPoints)

    def report_unmatched(self) -> None:
        """Raise or warn about entries of the config that match nothing in the model."""
        silent = [ModuleScope(path, (type_name,)) for path, type_name in self._options.silent_modules.items()]
        report_unmatched(self._options.config, self.sites, silent, boundaries=self._boundaries.names)

    def skip_or_refuse_uncut(self) -> None:
        """Report the weights that blocks do not divide, or raise an error that names all of them."""
        rule = Indivisible.of_blocks(self._options.leave_indivisible, others=self._cuts_others)
        refused = rule.refused(weight for _, weight in self._uncut)
        if refused:
            raise QuantizationError(cannot_be_cut(refused))
        for node, weight in self._uncut:
            self._context.report(node, weight.record)

    def _cache_points(
        self, node: Node, site: OpSite, spec: QuantizationSpec, source: str, key: int | str
    ) -> list[Point]:
        """Points of a key-value cache: one quantizer for the cache and its new entries, over all other entries."""
        names = site.inputs or ()
        if not (key in names if isinstance(key, str) else key < len(names)):
            accepted = ", ".join(f"{place} or {name!r}" for place, name in enumerate(names))
            raise QuantizationError(f"{source} matches no input of {node.name} ({node.location}); accepted: {accepted}")
        note = cache_update(node, spec)
        self._rewriter.annotate(node, note)
        rank = 10 * ModuleLevel.KV_CACHE
        points = [
            Point(Side.INPUT, Quantizer(f"{node.name}_{name}", spec, source=source, rank=rank), name, index)
            for name, index in sources(node, note)
        ]
        return [*points, Point(Side.OUTPUT, Quantizer(f"{node.name}_output", spec, source=source, rank=rank), index=0)]

    def _with_boundaries(self, node: Node, points: list[Point]) -> list[Point]:
        """Override `points` where a value crosses the boundary of a module whose config has a spec for it."""
        kept = {(point.side, point.operand, point.index): point for point in points}
        for name, index, value in tensor_operands(node):
            decision = self._boundaries.entering.get((id(node), name, index))
            if decision is not None:
                kept.pop((Side.INPUT, name, index), None)
                if decision.spec is not None:
                    quantizer = _activation(
                        f"{node.name}_{name}" + ("" if index is None else f"_{index}"), decision, value
                    )
                    kept[Side.INPUT, name, index] = Point(Side.INPUT, quantizer, name, index)
        for index, result in enumerate(node.results):
            decision = self._boundaries.leaving.get(id(result))
            if decision is not None:
                kept.pop((Side.OUTPUT, "", index), None)
                if decision.spec is not None:
                    name = f"{node.name}_output" if len(node.results) == 1 else f"{node.name}_output_{index}"
                    kept[Side.OUTPUT, "", index] = Point(Side.OUTPUT, _activation(name, decision, result), index=index)
        return list(kept.values())

    def _group_points(self, node: Node, site: OpSite, group: FusionGroup) -> Iterator[Point]:
        if group.role in (Role.ANCHOR, Role.WHOLE):
            yield from self._inputs(node, site)
            yield from self._weight_points(node, site)
        else:  # other inputs of the group are quantized too, by the config of the anchor
            yield from self._inputs(node, self._anchors[group.anchor], group=group)
        if group.role in (Role.TAIL, Role.WHOLE):
            yield from self._outputs(node, self._anchors[group.anchor])

    def _inputs(
        self, node: Node, site: OpSite, *, passive: bool = False, group: FusionGroup | None = None
    ) -> Iterator[Point]:
        for position, (name, index, value) in enumerate(tensor_operands(node)):
            if id(value) in self._constant or not _may_have_codes(value) or _is_inside(value, group):
                continue
            decision = self._resolver.explain_input(site, position, name)
            if not (passive or places_input(self._resolver.placement, node.op.family, name, decision)):
                continue
            if decision.spec is not None and (decision.names_op or not self._exact.at_input(node, value)):
                suffix = name if index is None else f"{name}_{index}"
                quantizer = _activation(f"{node.name}_{suffix}", decision, value)
                if self._resolver.placement is Placement.MATMUL_INPUTS and not decision.is_specific:
                    quantizer = _adapted(quantizer, with_range_of(quantizer.spec, value))
                follows = passive or _follows(node, COMPUTED_IN_FLOATS, decision)
                in_floats = _follows(node, OPERANDS_IN_FLOATS, decision)
                yield Point(Side.INPUT, quantizer, name, index, is_passive=follows, in_floats=in_floats)

    def _outputs(self, node: Node, site: OpSite, *, passive: bool = False) -> Iterator[Point]:
        for index, result in enumerate(node.results):
            if id(result) in self._constant or not _may_have_codes(result):
                continue
            decision = self._resolver.explain_output(site, index)
            if decision.spec is None or (self._exact.at_output(result) and not decision.names_op):
                continue
            if not (passive or places_output(self._resolver.placement, decision)):
                continue
            name = f"{node.name}_output" if len(node.results) == 1 else f"{node.name}_output_{index}"
            quantizer = _activation(name, decision, result)
            if passive or _follows(node, CLAMPS, decision):
                yield Point(Side.OUTPUT, quantizer, index=index, is_passive=True)
                continue
            if not decision.is_specific:
                quantizer = _adapted(quantizer, with_known_range(quantizer.spec, node))
            in_floats = _follows(node, RESULTS_IN_FLOATS, decision) and self._quantizes_operands(node, site)
            yield Point(Side.OUTPUT, quantizer, index=index, in_floats=in_floats)

    def _quantizes_operands(self, node: Node, site: OpSite) -> bool:
        """True if the config quantizes operands here; if it quantizes results alone, no reader has points."""
        return self._resolver.explain_input(site, 0, next(iter(node.operands))).spec is not None

    def _weight_points(self, node: Node, site: OpSite) -> Iterator[Point]:
        for weight in self._weights_of(node, site):
            reading = weight.reading
            decision = self._weights.decide(reading.name, [reading.site])
            if decision.skipped is not None:
                self._context.report(node, decision.skipped)
            if decision.spec is None or (self._exact.at_input(node, reading.value) and not decision.entry.names_op):
                continue
            try:
                block = weight_block(reading.node, reading.value, decision.spec.granularity)
            except (AxisError, BlockSizeError) as error:
                self._uncut.append((node, UncutWeight(decision.name, error, decision.is_specific, node.location)))
                continue
            self._cuts_others = True
            root = root_constant(reading.origin)
            if root is not None and root.has_data:
                require_finite(root.tensor, decision.name)
            quantizer = Quantizer(
                weight.name, decision.spec, block_size=block, is_state=True, source=decision.entry.source
            )
            yield Point(Side.INPUT, quantizer, weight.operand, weight.index)

    def _weights_of(self, node: Node, site: OpSite) -> Iterator[_WeightPoint]:
        for reading in weights_read(node, site, self._constant):
            name = f"{node.name}_{reading.operand}"
            full = name if reading.index is None else f"{name}_{reading.index}"
            yield _WeightPoint(full, reading.operand, reading.index, reading)
        for attribute in node.attributes.values():
            if isinstance(attribute, Graph):
                yield from self._weights_inside(node, attribute)

    def _weights_inside(self, node: Node, graph: Graph) -> Iterator[_WeightPoint]:
        """Weights that a subgraph reads: operands of the node that runs it, in its last list of as many values."""
        lists = [name for name, operand in node.operands.items() if isinstance(operand, tuple)]
        name = next((name for name in reversed(lists) if len(node.operands[name]) == len(graph.inputs)), None)
        if name is None:
            return
        given = node.operands[name]
        places = {
            id(entry.value): place
            for place, entry in enumerate(graph.inputs)
            if entry.value is not None and isinstance(given[place], Value) and id(given[place]) in self._constant
        }
        for inside in graph.nodes:
            site = site_of(inside, places)
            self.sites.append(site)
            for operand, _, value in inside.operand_values():
                place = places.get(id(value))
                if place is None or not is_weight(inside, operand, value) or is_compressed(given[place]):
                    continue
                full = f"{node.name}_{given[place].name.replace('.', '_')}"
                yield _WeightPoint(full, name, place, weight_read(inside, operand, None, value, site, given[place]))


def _follows(node: Node, families: Collection[str], decision: Decision) -> bool:
    """Return True for an op of `families`, alone in its group, that only a blanket spec of the config covers."""
    group = node.annotation(FusionGroup)
    is_alone = group is not None and group.role is Role.WHOLE
    return is_alone and node.op.family in families and not decision.is_specific


def _activation(name: str, decision: Decision, value: Value) -> Quantizer:
    spec: QuantizationSpec = decision.spec  # type: ignore[assignment]
    block = activation_block(spec.granularity, value.tensor_type.shape, name)
    rank = 10 * int(decision.level) + int(decision.op_level or 0)
    return Quantizer(name, spec, block_size=block, source=decision.source, rank=rank)


def _adapted(quantizer: Quantizer, spec: QuantizationSpec) -> Quantizer:
    return quantizer if spec == quantizer.spec else evolve(quantizer, spec=spec, wanted=quantizer.spec)


def _scheduled(point: Point, schedule: QATSchedule) -> Point:
    return point.with_quantizer(evolve(point.quantizer, schedule=schedule))


def _may_have_codes(value: Value) -> bool:
    """True for floats of at least one axis: backends quantize no numbers, such as a temperature or a mean of all."""
    return is_float(value) and value.tensor_type.rank > 0


def _is_inside(value: Value, group: FusionGroup | None) -> bool:
    """True if `value` is passed from one op of the group to the next."""
    made_by = value.node.annotation(FusionGroup) if group is not None and value.node is not None else None
    return made_by is not None and group is not None and made_by.anchor == group.anchor

"""Explanations of why a value is quantized or not, and by which quantizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import networkx as nx
from attrs import define, field, frozen

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Constant, Graph, Node, Output, Value
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import constant_values, root_constant
from graphpress.passes.analysis.exact_values import ExactValues, exact_values
from graphpress.passes.analysis.fusion import FusionGroup, Role
from graphpress.passes.analysis.quantization_points import Point, QuantizationPoints, Quantizer, Side
from graphpress.passes.analysis.sites import site_of, weight_read
from graphpress.passes.analysis.value_preserving import only_moves_values
from graphpress.passes.analysis.weights import is_compressed, is_weight
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.config import ConfigResolver, Decision, QuantizationSpec, Taken, WeightResolver
from graphpress.passes.framework import Hook, Pipeline, Runner, Step, StepRecord
from graphpress.passes.share_quantizers import ShareQuantizers
from graphpress.tools.passctl.console import PassctlError


@frozen
class UseExplanation:
    """One place where a value is computed or read.

    Attributes:
        place: such as ``relu_1 result`` or ``conv2d_2 input``.
        where: module path and source line.
        quantizer: the name of its quantizer; None if it is not quantized.
        source: the deciding entry of the config.
        reason: why it is not quantized.
    """

    place: str
    where: str
    quantizer: str | None = None
    source: str = ""
    reason: str = ""

    def __str__(self) -> str:
        what = f"quantized by {self.quantizer!r}, requested by {self.source}" if self.quantizer else self.reason
        return f"{self.place}: {what}\n    {self.where}"


@frozen
class QuantizerExplanation:
    """One quantizer and the places that share it.

    Attributes:
        name: unique in the graph.
        spec: a description of the spec.
        source: the deciding entry of the config.
        decider: the place of that entry.
        members: the active places that share it, with the config entries requesting a quantizer there.
        chain: the places from the value to the decider; adjacent places have the same value, or are on both sides of an
            op that only moves values.
        remark: the use of a known range.
    """

    name: str
    spec: str
    source: str
    decider: str
    members: tuple[str, ...]
    chain: tuple[str, ...]
    remark: str = ""

    def __str__(self) -> str:
        lines = [f"quantizer {self.name!r}: {self.spec}", f"  decided by {self.source} at {self.decider}"]
        if self.remark:
            lines.append(f"  {self.remark}")
        if len(self.chain) > 1:
            lines.append(f"  through {' -> '.join(self.chain)}")
        if len(self.members) > 1:
            lines.append(f"  shared by {len(self.members)}:")
            lines += [f"    {member}" for member in self.members]
        return "\n".join(lines)


@frozen
class ValueExplanation:
    """A value with its fusion group, its places, and its quantizers."""

    name: str
    type: str
    group: str
    uses: tuple[UseExplanation, ...]
    quantizers: tuple[QuantizerExplanation, ...]

    @property
    def is_quantized(self) -> bool:
        """True if the value is quantized at any place."""
        return bool(self.quantizers)

    def __str__(self) -> str:
        verdict = "quantized" if self.is_quantized else "not quantized"
        lines = [f"{self.name}: {self.type} is {verdict}", *([self.group] if self.group else [])]
        return "\n".join([*lines, *map(str, self.uses), *map(str, self.quantizers)])


Place = tuple[Node, Point]


def explain_value(graph: Graph, pipeline: Pipeline, name: str) -> list[ValueExplanation]:
    """Explain the value or constant called `name`, or every weight computed from that constant.

    Args:
        graph: the captured graph; it is not changed.
        pipeline: a pipeline that assigns quantizers, such as `prepare`; it runs until they are shared.
        name: a node, an input, a constant, or a parameter by its qualified name, optionally with ``%`` or ``@``.

    Raises:
        PassctlError: if the pipeline assigns no quantizers, or there is no such value (with similar names).
    """
    stages = _Stages()
    for step in pipeline:
        stages.last = step.address if isinstance(step.pass_, AssignQuantizers | ShareQuantizers) else stages.last
    if not any(isinstance(step.pass_, AssignQuantizers) for step in pipeline):
        raise PassctlError("the pipeline assigns no quantizers: it has no step 'assign-quantizers', as 'prepare' has")
    Runner([stages]).run(graph, pipeline)
    assert stages.assigned is not None
    explainer = _Explainer(stages.assigned, stages.shared or stages.assigned, stages.config)
    return [explainer.explanation(value) for value in explainer.values(name.removeprefix("%").removeprefix("@"), graph)]


@define(eq=False)
class _Stages(Hook):
    """Hook that keeps the graphs with assigned and with shared quantizers, and stops then."""

    last: str = ""
    assigned: Graph | None = None
    shared: Graph | None = None
    config: Any = None
    _is_over: bool = False

    def allow(self, step: Step, graph: Graph) -> bool:
        return not self._is_over

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        if isinstance(step.pass_, AssignQuantizers):
            self.assigned, self.config = graph.clone(), step.pass_.config
        elif isinstance(step.pass_, ShareQuantizers):
            self.shared = graph.clone()
        self._is_over = step.address == self.last


@define(eq=False)
class _Explainer:
    assigned: Graph
    graph: Graph
    config: Any
    constant: set[int] = field(init=False)
    exact: ExactValues = field(init=False)
    resolver: ConfigResolver = field(init=False)
    nodes: dict[str, Node] = field(init=False)
    places: list[Place] = field(init=False)
    asked: dict[tuple[str, Side, str, int | None], Quantizer] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.constant = constant_values(self.graph)
        self.exact = exact_values(self.graph, self.constant)
        self.resolver = ConfigResolver(self.config)
        self.nodes = {node.name: node for node in self.graph.nodes}
        self.places = list(_places(self.graph))
        self.asked = {_key(node, point): point.quantizer for node, point in _places(self.assigned)}

    # Finding the value.

    def values(self, name: str, captured: Graph) -> list[Value]:
        known = {value.name: value for value in self.graph.values()}
        for constant in self.graph.constants.values():
            if name == constant.name or name in constant.names:
                return self.read_weights(constant) or [constant.value]
        if name in self.nodes and len(self.nodes[name].results) > 1:
            return list(self.nodes[name].results)
        if name in known:
            return [known[name]]
        gone = next((node for node in captured.nodes if node.name == name), None)
        if gone is not None:
            origins = set(gone.location.origins)
            heirs = [n for n in self.graph.nodes if origins and origins <= set(n.location.origins)]
            heirs = [n for n in heirs if id(n.results[0]) not in self.constant] or heirs
            into = f"; {heirs[-1].name!r} replaces it" if heirs else ""
            raise PassctlError(
                f"{name!r} ({gone.op.name}) no longer exists when quantizers are assigned: an earlier step "
                f"rewrote it{into}"
            )
        parameters = [each for constant in self.graph.constants.values() for each in constant.names]
        raise PassctlError(f"no value {name!r}{suggestion(name, [*known, *parameters])}")

    def read_weights(self, constant: Constant) -> list[Value]:
        """Return the values computed from `constant` that are read by nodes with non-constant results."""
        found = {}
        for node in self.graph.nodes:
            if any(id(result) in self.constant for result in node.results):
                continue
            for _, _, value in node.operand_values():
                if id(value) in self.constant and root_constant(value) is constant:
                    found[id(value)] = value
        return list(found.values())

    # Explaining its places.

    def explanation(self, value: Value) -> ValueExplanation:
        about = [(node, point) for node, point in self.places if point.value(node) is value]
        names = dict.fromkeys(point.quantizer.name for _, point in about)
        return ValueExplanation(
            f"{'@' if value.constant is not None else '%'}{value.name}",
            str(value.type),
            self.group(value.node),
            tuple(self.uses(value)),
            tuple(self.quantizer(name, value) for name in names),
        )

    def group(self, node: Node | None) -> str:
        group = None if node is None else node.annotation(FusionGroup)
        if node is None or group is None:
            return ""
        members = ", ".join(self.members(group))
        return f"made in the fusion group {group.pattern!r} of {members}"

    def members(self, group: FusionGroup) -> list[str]:
        groups = ((node, node.annotation(FusionGroup)) for node in self.graph.nodes)
        return [node.name for node, other in groups if other is not None and other.anchor == group.anchor]

    def uses(self, value: Value) -> Iterator[UseExplanation]:
        node = value.node
        if node is not None and id(value) not in self.constant:
            yield self.use(node, Side.OUTPUT, "", value.index if len(node.results) > 1 else None, value)
        elif node is None and value.constant is None:
            yield UseExplanation(
                value.name, "an input of the graph", reason="an input is quantized where an op reads it"
            )
        for use in value.uses:
            if isinstance(use.user, Output):
                yield UseExplanation("output", "the graph returns it", reason=self.reason_of_output(value))
            else:
                yield self.use(use.user, Side.INPUT, use.operand, use.index, value)

    def use(self, node: Node, side: Side, operand: str, index: int | None, value: Value) -> UseExplanation:
        title, where = _title(node, side, operand, index), str(node.location)
        for other, point in self.places:
            if other is node and _is_at(point, side, operand, index):
                if side is Side.INPUT and point.in_floats and self.is_quantized_for_some(value):
                    return UseExplanation(title, where, reason=f"not quantized: {_FOR_SOME}")
                asked = self.asked.get(_key(node, point), point.quantizer)
                source = "its neighbours, since it only moves values" if point.is_passive else asked.source
                return UseExplanation(title, where, point.quantizer.name, source)
        return UseExplanation(title, where, reason=f"not quantized: {self.reason(node, side, operand, index, value)}")

    # Why it is not quantized.

    def is_quantized_for_some(self, value: Value) -> bool:
        """True if the op that makes `value` computes in floats, so that readers of codes quantize it."""
        makes = [point for node, point in self.places if point.side is Side.OUTPUT and point.value(node) is value]
        return any(point.in_floats for point in makes)

    def reason_of_output(self, value: Value) -> str:
        return _FOR_SOME if self.is_quantized_for_some(value) else "an output is quantized where it is made"

    def reason(self, node: Node, side: Side, operand: str, index: int | None, value: Value) -> str:
        type = value.type
        if not isinstance(type, TensorType) or not type.dtype.is_floating or type.dtype.bits < 16:
            return f"{type} is not floating point"
        if id(value) in self.constant:
            return self.reason_of_weight(node, operand, value)
        group = node.annotation(FusionGroup)
        if group is None:
            return self.reason_outside_groups(node, side, operand, index, value)
        edge = (Role.TAIL, Role.WHOLE) if side is Side.OUTPUT else (Role.ANCHOR, Role.WHOLE)
        if group.role not in edge:
            members = self.members(group)
            outer = f"the result of {members[-1]}" if side is Side.OUTPUT else f"what {members[0]} reads"
            return f"it lies inside the fusion group {group.pattern!r} of {', '.join(members)}; only {outer} is"
        decision = self.decision(self.nodes[group.anchor], node, side, operand, index)
        is_exact = self.exact.at_output(value) if side is Side.OUTPUT else self.exact.at_input(node, value)
        if is_exact and decision.spec is not None:
            return (
                "angles, divisors, choices, scores of a softmax and numbers made from integers are quantized only by "
                "an entry for the op or its type"
            )
        points = [point for point in _points(self.assigned.node(node.name)) if _is_at(point, side, operand, index)]
        if side is Side.OUTPUT and any(point.in_floats for point in points):
            return f"{node.op.name} makes floats, and no op that computes on codes reads them"
        if points:
            return f"{node.op.name} is computed in floats, and what makes and what reads its operands is not quantized"
        return _by_config(decision)

    def reason_outside_groups(self, node: Node, side: Side, operand: str, index: int | None, value: Value) -> str:
        if not only_moves_values(node):
            return f"{node.op.name} is in no fusion group, so it computes in floating point"
        if any(_is_at(point, side, operand, index) for point in _points(self.assigned.node(node.name))):
            return f"{node.op.name} only moves values, and neither its sources nor its users are quantized"
        return _by_config(self.decision(node, node, side, operand, index))

    def reason_of_weight(self, node: Node, operand: str, value: Value) -> str:
        if not is_weight(node, operand, value):
            if is_compressed(value):
                return "it is compressed already"
            if value.tensor_type.rank < 2:
                return "a constant of fewer than two axes is not a weight"
            return f"{node.op.name} takes no weights"
        group = node.annotation(FusionGroup)
        if group is None:
            return f"{node.op.name} is in no fusion group, so it computes in floating point"
        site = site_of(node, self.constant)
        index = next((i for name, i, read in node.operand_values() if name == operand and read is value), None)
        reading = weight_read(node, operand, index, value, site)
        decided = WeightResolver(self.resolver, Taken.FACTORS).decide(reading.name, [reading.site])
        return str(decided.skipped) if decided.skipped is not None else _by_config(decided.entry)

    def decision(self, configured: Node, node: Node, side: Side, operand: str, index: int | None) -> Decision:
        site = site_of(configured, self.constant)
        if side is Side.OUTPUT:
            return self.resolver.explain_output(site, index or 0)
        order = [parameter.name for parameter in node.op.parameters]
        tensors = [(n, i) for n, i, v in node.operand_values() if isinstance(v.type, TensorType)]
        tensors.sort(key=lambda item: (order.index(item[0]) if item[0] in order else 0, item[1] or 0))
        return self.resolver.explain_input(site, tensors.index((operand, index)), operand)

    # By which quantizer.

    def quantizer(self, name: str, value: Value) -> QuantizerExplanation:
        members = [(node, point) for node, point in self.places if point.quantizer.name == name]
        final = members[0][1].quantizer
        active = [place for place in members if not place[1].is_passive]
        deciders = [
            (node, point)
            for node, point in sorted(active, key=lambda place: place[1].side is Side.INPUT)
            if (asked := self.asked.get(_key(node, point))) is not None
            and (asked.source, asked.rank) == (final.source, final.rank)
        ]
        decider = deciders[0] if deciders else members[0]
        start = next(place for place in members if place[1].value(place[0]) is value)
        return QuantizerExplanation(
            name,
            _spec_text(final.spec),
            final.source,
            _title_of(decider),
            tuple(self.member(*place) for place in members),
            tuple(map(_title_of, _path(members, start, decider))),
            self.remark(final, active),
        )

    def member(self, node: Node, point: Point) -> str:
        asked = self.asked.get(_key(node, point))
        said = "" if point.is_passive or asked is None else f", requested by {asked.source}"
        return f"{_title(node, point.side, point.operand, point.index)}{said}"

    def remark(self, final: Quantizer, active: list[Place]) -> str:
        asked = [(node, self.asked.get(_key(node, point))) for node, point in active]
        known = [node.name for node, quantizer in asked if quantizer is not None and quantizer.wanted is not None]
        if not known:
            return ""
        if final.wanted is not None:
            return f"scheme and range are the known ones of the result of {', '.join(known)}"
        return f"the known range of the result of {', '.join(known)} is not used: other values share this quantizer"


_FOR_SOME = "the value is quantized only for readers that compute on codes"


def _places(graph: Graph) -> Iterator[Place]:
    for node in graph.nodes:
        for point in _points(node):
            yield node, point


def _points(node: Node) -> tuple[Point, ...]:
    note = node.annotation(QuantizationPoints)
    return () if note is None else note.points


def _key(node: Node, point: Point) -> tuple[str, Side, str, int | None]:
    return node.name, point.side, point.operand, point.index


def _is_at(point: Point, side: Side, operand: str, index: int | None) -> bool:
    if side is Side.OUTPUT:
        return point.side is side and (point.index or 0) == (index or 0)
    return (point.side, point.operand, point.index) == (side, operand, index)


def _title(node: Node, side: Side, operand: str, index: int | None) -> str:
    if side is Side.OUTPUT:
        return f"{node.name} result" if len(node.results) == 1 else f"{node.name} result {index or 0}"
    return f"{node.name} {operand}" if index is None else f"{node.name} {operand}[{index}]"


def _title_of(place: Place) -> str:
    node, point = place
    return _title(node, point.side, point.operand, point.index)


def _path(members: list[Place], start: Place, end: Place) -> Iterable[Place]:
    """Return the path between two places, along equal values and ops that only move values."""
    chain = nx.Graph()
    chain.add_nodes_from(range(len(members)))
    groups: dict[tuple[str, int], list[int]] = {}
    for number, (node, point) in enumerate(members):
        groups.setdefault(("value", id(point.value(node))), []).append(number)
        if only_moves_values(node):
            groups.setdefault(("node", id(node)), []).append(number)
    for numbers in groups.values():
        chain.add_edges_from((numbers[0], other) for other in numbers[1:])
    try:
        path = nx.shortest_path(chain, members.index(start), members.index(end))
    except nx.NetworkXNoPath:
        path = [members.index(start)]
    return [members[number] for number in path]


def _by_config(decision: Decision) -> str:
    if decision.explicit:
        return f"{decision.source} of the config is None"
    return f"{decision.source} of the config, which decides here, has no entry for it"


def _spec_text(spec: QuantizationSpec) -> str:
    low, high = spec.float_range
    fixed = f", range {low} to {high}" if (low, high) != (None, None) else ""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", type(spec.granularity).__name__.removesuffix("Granularity")).lower()
    fields = attrs.asdict(spec.granularity, recurse=False)  # type: ignore[arg-type]
    options = ", ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    return f"{spec.element_type.long_name}, {spec.qscheme.value}, {words}{f' ({options})' if options else ''}{fixed}"

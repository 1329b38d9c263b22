"""Sharing of quantizers between values that carry the same data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

import networkx as nx
from attrs import evolve, frozen

from graphpress.ir.graph import Graph, Node
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.caches import CacheUpdate
from graphpress.passes.analysis.constants import before_dropout
from graphpress.passes.analysis.facts import QUANTIZERS_ASSIGNED, QUANTIZERS_SHARED
from graphpress.passes.analysis.quantization_points import Point, QuantizationPoints, Quantizer, Side
from graphpress.passes.analysis.value_preserving import only_moves_values
from graphpress.passes.config import PerTensorGranularity, QATSchedule, QuantizationScheme, QuantizationSpec
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass

Key = tuple[int, int]  # id of a node, and the position of one of its points


@register_pass
@frozen
class ShareQuantizers(Pass):
    """Assign one quantizer to all quantization points of the same data.

    Points are joined between the producer of a value and its readers, dropouts aside, and across value-preserving ops.
    Each connected component gets one quantizer, decided from the whole component, independent of the order of nodes:

    - the most specific entry of the config wins; among equals, that of the producer; among these, that of the name
      that sorts first;
    - a known range remains only if all producers of the component have it, or all readers where producers have no
      points; otherwise the range is observed;
    - the training schedule is that of the reader, if there is one;
    - a component in which no op computes, or only in floats, has no quantizer.

    A weight that several nodes read, such as a tied one, has one quantizer for all nodes with equal specs for it.

    Only annotations change, so the numbers cannot.
    """

    needs = frozenset({QUANTIZERS_ASSIGNED})
    gives = frozenset({QUANTIZERS_SHARED})
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Build the constraint graph, decide each component, and update the annotations."""
        points = {
            (id(node), place): (node, point)
            for node in graph.nodes
            for place, point in enumerate(_points(node))
            if not point.quantizer.is_state
        }
        constraints = nx.Graph()
        constraints.add_nodes_from(points)
        constraints.add_edges_from(_same_value(points))
        constraints.add_edges_from(_moved_values(graph, points))
        decided: dict[Key, Quantizer | None] = {}
        for component in nx.connected_components(constraints):
            keys = sorted(component, key=lambda key: (_natural(points[key][0].name), key[1]))
            decided |= dict.fromkeys(keys, _decide([points[key] for key in keys]))
            context.count("components")
        decided |= _shared_states(graph)
        for node in graph.nodes:
            self._write(node, decided, rewriter)

    def _write(self, node: Node, decided: dict[Key, Quantizer | None], rewriter: Rewriter) -> None:
        old = _points(node)
        if not old:
            return
        new = []
        for place, point in enumerate(old):
            quantizer = decided.get((id(node), place), point.quantizer)
            if quantizer is not None:
                new.append(point.with_quantizer(quantizer))
        if new:
            rewriter.annotate(node, QuantizationPoints(tuple(new)))
        else:
            rewriter.remove_annotation(node, QuantizationPoints)


def _natural(name: str) -> list[tuple[int, str]]:
    """A natural sort key for names, with ``conv_9`` before ``conv_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


Points = dict[Key, tuple[Node, Point]]


def _points(node: Node) -> tuple[Point, ...]:
    note = node.annotation(QuantizationPoints)
    return () if note is None else note.points


def _same_value(points: Points) -> Iterator[tuple[Key, Key]]:
    first: dict[int, Key] = {}
    for key, (node, point) in points.items():
        value = id(before_dropout(point.value(node)))
        if value in first:
            yield first[value], key
        else:
            first[value] = key


def _moved_values(graph: Graph, points: Points) -> Iterator[tuple[Key, Key]]:
    for node in graph.nodes:
        if not only_moves_values(node) and node.annotation(CacheUpdate) is None:
            continue
        keys = [(id(node), place) for place in range(len(_points(node)))]
        keys = [key for key in keys if key in points and _is_per_tensor(points[key][1].quantizer.spec)]
        yield from pairwise(keys)


def _shared_states(graph: Graph) -> dict[Key, Quantizer]:
    first: dict[object, Quantizer] = {}
    decided: dict[Key, Quantizer] = {}
    for node in graph.nodes:
        for place, point in enumerate(_points(node)):
            if point.quantizer.is_state:
                key = (id(point.value(node)), point.quantizer.spec, point.quantizer.block_size)
                decided[id(node), place] = first.setdefault(key, point.quantizer)
    return decided


def _is_per_tensor(spec: QuantizationSpec) -> bool:
    return isinstance(spec.granularity, PerTensorGranularity)


def _decide(members: list[tuple[Node, Point]]) -> Quantizer | None:
    active = [(node, point) for node, point in members if not point.is_passive]
    if all(point.in_floats for _, point in active):
        return None
    makers = [point for _, point in active if point.side is Side.OUTPUT]
    points = [*makers, *(point for _, point in active if point.side is Side.INPUT)]
    winner = max(points, key=lambda point: point.quantizer.rank).quantizer
    winner = evolve(winner, schedule=_schedule(points, winner))
    name = points[0].quantizer.name
    made = {id(point.value(node)) for node, point in active if point.side is Side.OUTPUT}
    fed = any(_enters(node, point, made) for node, point in members)
    spec = winner.asked
    if makers:
        agreed = None if fed else _agreed_range(makers, winner)
    else:  # each reader knows the range of what it reads
        agreed = _agreed_range(points, winner)
    if agreed is not None and agreed != spec:
        return evolve(winner, name=name, spec=agreed, wanted=spec)
    return evolve(winner, name=name, spec=spec, wanted=None)


def _schedule(points: Iterable[Point], winner: Quantizer) -> QATSchedule | None:
    """The training schedule of the module that reads the value."""
    reading = [point.quantizer.schedule for point in points if point.side is Side.INPUT]
    return reading[0] if reading else winner.schedule


def _enters(node: Node, point: Point, made: set[int]) -> bool:
    """True if no op of the component produces the value of `point`: an input, or the result of a float op."""
    if point.side is Side.OUTPUT:
        return False
    value = before_dropout(point.value(node))
    if id(value) in made:
        return False
    producer = value.node
    return producer is None or not any(p.side is Side.OUTPUT and p.value(producer) is value for p in _points(producer))


def _agreed_range(makers: Iterable[Point], winner: Quantizer) -> QuantizationSpec | None:
    """The spec with the known range common to all producers; without fixed ends if only the scheme is common."""
    specs = [point.quantizer.spec for point in makers if point.quantizer.asked == winner.asked]
    if not specs or len(specs) != len(list(makers)):
        return None
    if all(spec == specs[0] for spec in specs):
        return specs[0]
    if all(spec.qscheme is QuantizationScheme.ASYMMETRIC for spec in specs):
        return evolve(winner.asked, qscheme=QuantizationScheme.ASYMMETRIC)
    return None

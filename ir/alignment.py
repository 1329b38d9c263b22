"""Node alignment of two graphs by node labels and neighbourhood fingerprints.

A label describes a node by itself, a fingerprint its neighbourhood; both are comparable across graphs. Names and node
order do not count, except in the label `by_name`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from attrs import define, field

from graphpress.ir.graph import Constant, Graph, Input, Node, Value
from graphpress.ir.text.attributes import TextFormError, format_value
from graphpress.ir.text.printer import constant_digest

Label = Callable[[Node], Hashable]
Labels = Mapping[Node, int]
Fingerprint = Callable[["LabelledGraph", Labels], Mapping[Node, Hashable]]


# Labels, from strict to loose.


def with_constants(node: Node) -> Hashable:
    """Return op, attributes, types and the contents of the constants that `node` reads."""
    constants = tuple(
        (name, index, constant_digest(value.constant))
        for name, index, value in _sorted_operands(node)
        if value.constant is not None
    )
    return with_types(node), constants


def with_types(node: Node) -> Hashable:
    """Return op, attributes, types and the types of the constants that `node` reads."""
    attributes = tuple((name, _attribute(node.attributes[name])) for name in sorted(node.attributes))
    types = tuple(str(result.type) for result in node.results)
    constants = tuple(
        (name, index, str(value.type)) for name, index, value in _sorted_operands(node) if value.constant is not None
    )
    return node.op.name, attributes, types, constants


def op_alone(node: Node) -> Hashable:
    """Return op and number of results."""
    return node.op.name, len(node.results)


def by_location(node: Node) -> Hashable:
    """Return op, module paths and source lines, or None if the location is unknown."""
    origins = tuple((origin.module_path, origin.file, origin.line) for origin in node.location.origins)
    return (op_alone(node), origins) if origins else None


def by_name(node: Node) -> Hashable:
    """Return op and node name."""
    return op_alone(node), node.name


def _attribute(value: Any) -> str:
    try:
        return format_value(value, lambda inner: f"graph of {len(inner.nodes)}" if isinstance(inner, Graph) else None)
    except TextFormError:
        return repr(type(value))


def _sorted_operands(node: Node) -> list[tuple[str, int | None, Value]]:
    return sorted(node.operand_values(), key=lambda operand: (operand[0], -1 if operand[1] is None else operand[1]))


class LabelledGraph:
    """A graph with cached node labels and access to the neighbours of each node."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes = list(graph.nodes)
        self._inputs = {id(each.value): place for place, each in enumerate(graph.inputs)}
        self._outputs = {id(output): place for place, output in enumerate(graph.outputs)}
        self._labels: dict[Label, Labels] = {}

    def labels(self, label: Label) -> Labels:
        """Hash the label of every node that has one."""
        if label not in self._labels:
            found = ((node, label(node)) for node in self.nodes)
            self._labels[label] = {node: hash(text) for node, text in found if text is not None}
        return self._labels[label]

    def producers(self, node: Node, known: Labels) -> tuple[Hashable, ...]:
        """Return the producers of the operands of `node`; constants are covered by its label."""
        return tuple(
            (name, index, value.index, known[value.node] if value.node is not None else self._inputs.get(id(value)))
            for name, index, value in _sorted_operands(node)
            if value.constant is None
        )

    def users(self, node: Node, known: Labels) -> tuple[Hashable, ...]:
        """Return the users of `node`, sorted independently of the order of the uses."""
        found: list[tuple[int, str, int, int]] = []
        for result in node.results:
            for use in result.uses:
                at = known[use.user] if isinstance(use.user, Node) else self._outputs[id(use.user)]
                found.append((result.index, use.operand, -1 if use.index is None else use.index, at))
        return tuple(sorted(found))


# Fingerprints, from strict to loose.


def everything_around(side: LabelledGraph, labels: Labels) -> dict[Node, Hashable]:
    """Hash all transitive producers and users of each node."""
    above = everything_above(side, labels)
    below: dict[Node, int] = {}
    for node in reversed(side.nodes):
        below[node] = hash((labels[node], side.users(node, below)))
    return {node: (above[node], below[node]) for node in side.nodes}


def everything_above(side: LabelledGraph, labels: Labels) -> dict[Node, int]:
    """Hash all transitive producers of each node."""
    known: dict[Node, int] = {}
    for node in side.nodes:
        known[node] = hash((labels[node], side.producers(node, known)))
    return known


def two_steps_around(side: LabelledGraph, labels: Labels) -> dict[Node, int]:
    """Hash the neighbourhood of each node up to distance two."""
    return one_step_around(side, one_step_around(side, labels))


def one_step_around(side: LabelledGraph, labels: Labels) -> dict[Node, int]:
    """Hash the direct producers and users of each node."""
    return {node: hash((labels[node], side.producers(node, labels), side.users(node, labels))) for node in side.nodes}


def label_alone(side: LabelledGraph, labels: Labels) -> Labels:
    """Return the labels themselves as fingerprints."""
    return labels


Pair = tuple[Node, Node]

_LARGEST_GAP = 4_000_000  # node pairs that one sequence comparison may examine at most


@define(eq=False)
class Alignment:
    """A one-to-one matching between nodes of two graphs."""

    first: Graph
    second: Graph
    pairs: dict[Node, Node] = field(factory=dict)
    reverse: dict[Node, Node] = field(factory=dict)

    def match(self, a: Node, b: Node) -> bool:
        """Pair two nodes unless one of them is already paired."""
        if a in self.pairs or b in self.reverse:
            return False
        self.pairs[a], self.reverse[b] = b, a
        return True

    def corresponds(self, a: Value, b: Value) -> bool:
        """Return True if both values are results of paired nodes, inputs at the same position, or equal constants."""
        one, other = a.producer, b.producer
        if isinstance(one, Node):
            return self.pairs.get(one) is other and a.index == b.index
        if isinstance(one, Input):
            return isinstance(other, Input) and _place(self.first, one) == _place(self.second, other)
        return isinstance(other, Constant) and same_constant(one, other)


def align(first: Graph, second: Graph) -> Alignment:
    """Match the nodes of two graphs.

    The cost is linear in the graph size if the graphs are mostly alike.
    """
    aligner = _Aligner(Alignment(first, second), (LabelledGraph(first), LabelledGraph(second)))
    for label in (with_constants, with_types):
        for fingerprint in (everything_around, everything_above, two_steps_around, one_step_around):
            aligner.spread(aligner.anchors(label, fingerprint), label)
        aligner.spread(aligner.ends(label), label)
    for identity in (by_location, by_name):
        aligner.spread(aligner.anchors(identity, label_alone), op_alone)
    aligner.spread(list(aligner.alignment.pairs.items()), op_alone)
    aligner.spread(aligner.ends(op_alone), op_alone)
    for twins in aligner.twins():
        aligner.spread([twins], with_types)
    aligner.fill_gaps()
    return aligner.alignment


def same_constant(a: Constant, b: Constant) -> bool:
    """Return True if two constants have the same type and bytes."""
    if a.value.type != b.value.type:
        return False
    return (a.has_data and b.has_data and a.tensor is b.tensor) or constant_digest(a) == constant_digest(b)


@define(eq=False)
class _Aligner:
    alignment: Alignment
    sides: tuple[LabelledGraph, LabelledGraph]

    def anchors(self, label: Label, fingerprint: Fingerprint) -> list[Pair]:
        """Pair the nodes whose fingerprint is unique in both graphs."""
        groups = self._groups(label, fingerprint)
        unique = [(a[0], b[0]) for a, b in groups if len(a) == len(b) == 1]
        return [pair for pair in unique if self.alignment.match(*pair)]

    def twins(self) -> Iterator[Pair]:
        """Pair indistinguishable nodes in graph order, one pair at a time.

        Only groups of equal size in both graphs are considered.
        """
        for a, b in self._groups(with_types, everything_around):
            if len(a) == len(b):
                yield from (pair for pair in zip(a, b, strict=True) if self.alignment.match(*pair))

    def ends(self, label: Label) -> list[Pair]:
        """Pair the users of inputs and the producers of outputs, by position."""
        first, second = self.alignment.first, self.alignment.second
        found: list[Pair] = []
        for one, other in zip(first.inputs, second.inputs, strict=False):
            if one.value is not None and other.value is not None:
                found += self._users(one.value, other.value, label)
        for out, its in zip(first.outputs, second.outputs, strict=False):
            if out.value is not None and its.value is not None:
                found += self._producers(out.value, its.value, label)
        return found

    def spread(self, pairs: Sequence[Pair], label: Label) -> None:
        """Extend the matching from `pairs` to neighbours with equal labels, transitively.

        Producers of the same operand are paired, and users that are unique for one operand.
        """
        work = list(pairs)
        while work:
            a, b = work.pop()
            theirs = {(name, index): value for name, index, value in b.operand_values()}
            for name, index, value in a.operand_values():
                if (name, index) in theirs:
                    work += self._producers(value, theirs[name, index], label)
            for one, other in zip(a.results, b.results, strict=False):
                work += self._users(one, other, label)

    def fill_gaps(self) -> None:
        """Pair nodes of the same op between adjacent matched pairs, by longest common subsequence."""
        (first, second), labels = (side.nodes for side in self.sides), [s.labels(op_alone) for s in self.sides]
        for (a_start, b_start), (a_end, b_end) in pairwise(self._fences()):
            a = [node for node in first[a_start + 1 : a_end] if node not in self.alignment.pairs]
            b = [node for node in second[b_start + 1 : b_end] if node not in self.alignment.reverse]
            if not a or not b or len(a) * len(b) > _LARGEST_GAP:
                continue
            matcher = SequenceMatcher(None, [labels[0][n] for n in a], [labels[1][n] for n in b], autojunk=False)
            for block in matcher.get_matching_blocks():
                for offset in range(block.size):
                    self.alignment.match(a[block.a + offset], b[block.b + offset])

    def _groups(self, label: Label, fingerprint: Fingerprint) -> list[tuple[list[Node], list[Node]]]:
        """Group the unpaired nodes by fingerprint, and return the groups that occur in both graphs."""
        paired: tuple[Mapping[Node, Node], ...] = (self.alignment.pairs, self.alignment.reverse)
        if any(len(side.nodes) == len(known) for side, known in zip(self.sides, paired, strict=True)):
            return []
        found: list[dict[Hashable, list[Node]]] = []
        for side, known in zip(self.sides, paired, strict=True):
            groups: dict[Hashable, list[Node]] = defaultdict(list)
            for node, mark in fingerprint(side, side.labels(label)).items():
                if node not in known:
                    groups[mark].append(node)
            found.append(groups)
        return [(group, found[1][mark]) for mark, group in found[0].items() if mark in found[1]]

    def _producers(self, a: Value, b: Value, label: Label) -> list[Pair]:
        if a.node is None or b.node is None or a.index != b.index:
            return []
        return self._match(a.node, b.node, label)

    def _users(self, a: Value, b: Value, label: Label) -> list[Pair]:
        mine, theirs = self._readers(a, 0, label), self._readers(b, 1, label)
        found: list[Pair] = []
        for key, nodes in mine.items():
            if len(nodes) == 1 and len(theirs.get(key, ())) == 1:
                found += self._match(nodes[0], theirs[key][0], label)
        return found

    def _readers(self, value: Value, side: int, label: Label) -> dict[Hashable, list[Node]]:
        """Group the unpaired users of `value` by label and operand."""
        known = self.alignment.reverse if side else self.alignment.pairs
        labels = self.sides[side].labels(label)
        readers: dict[Hashable, list[Node]] = defaultdict(list)
        for use in value.uses:
            if isinstance(use.user, Node) and use.user not in known:
                readers[labels[use.user], use.operand, use.index].append(use.user)
        return readers

    def _match(self, a: Node, b: Node, label: Label) -> list[Pair]:
        agree = self.sides[0].labels(label)[a] == self.sides[1].labels(label)[b]
        return [(a, b)] if agree and self.alignment.match(a, b) else []

    def _fences(self) -> list[tuple[int, int]]:
        """Return the positions of a longest increasing subsequence of pairs, with sentinels at both ends."""
        first, second = (side.nodes for side in self.sides)
        pairs = self.alignment.pairs
        places = {node: place for place, node in enumerate(second)}
        found = [(place, places[pairs[node]]) for place, node in enumerate(first) if node in pairs]
        tails: list[int] = []  # the smallest last position of a subsequence of each length
        ends: list[int] = []
        before: list[int | None] = []
        for number, (_, b) in enumerate(found):
            at = bisect_left(tails, b)
            before.append(ends[at - 1] if at else None)
            tails[at : at + 1], ends[at : at + 1] = [b], [number]
        series: list[tuple[int, int]] = []
        step = ends[-1] if ends else None
        while step is not None:
            series.append(found[step])
            step = before[step]
        return [(-1, -1), *reversed(series), (len(first), len(second))]


def _place(graph: Graph, graph_input: Input) -> int:
    return next(place for place, other in enumerate(graph.inputs) if other is graph_input)

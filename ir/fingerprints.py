"""What tells a node from others: labels, of the node itself, and fingerprints, of its place in a graph.

Those of two graphs can be compared. Names and the order of nodes play no part, but for the label `by_name`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from graphpress.ir.attribute_text import TextFormError, format_value
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.printer import constant_digest

Label = Callable[[Node], Hashable]
Labels = Mapping[Node, int]
Fingerprint = Callable[["LabelledGraph", Labels], Mapping[Node, Hashable]]


# labels, from strict to loose


def with_constants(node: Node) -> Hashable:
    """Op, attributes, types, and the contents of the constants it reads."""
    constants = tuple(
        (name, index, constant_digest(value.constant))
        for name, index, value in _sorted_operands(node)
        if value.constant is not None
    )
    return with_types(node), constants


def with_types(node: Node) -> Hashable:
    """Op, attributes, types, and the types of the constants it reads."""
    attributes = tuple((name, _attribute(node.attributes[name])) for name in sorted(node.attributes))
    types = tuple(str(result.type) for result in node.results)
    constants = tuple(
        (name, index, str(value.type)) for name, index, value in _sorted_operands(node) if value.constant is not None
    )
    return node.op.name, attributes, types, constants


def op_alone(node: Node) -> Hashable:
    """Op and number of results."""
    return node.op.name, len(node.results)


def by_location(node: Node) -> Hashable:
    """Op, module paths and source lines; None for a node from nowhere."""
    origins = tuple((origin.module_path, origin.file, origin.line) for origin in node.location.origins)
    return (op_alone(node), origins) if origins else None


def by_name(node: Node) -> Hashable:
    """Op and name."""
    return op_alone(node), node.name


def _attribute(value: Any) -> str:
    try:
        return format_value(value, lambda inner: f"graph of {len(inner.nodes)}" if isinstance(inner, Graph) else None)
    except TextFormError:
        return repr(type(value))


def _sorted_operands(node: Node) -> list[tuple[str, int | None, Value]]:
    return sorted(node.operand_values(), key=lambda operand: (operand[0], -1 if operand[1] is None else operand[1]))


class LabelledGraph:
    """A graph, the labels of its nodes, and what stands around each node."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes = list(graph.nodes)
        self._inputs = {id(each.value): place for place, each in enumerate(graph.inputs)}
        self._outputs = {id(output): place for place, output in enumerate(graph.outputs)}
        self._labels: dict[Label, Labels] = {}

    def labels(self, label: Label) -> Labels:
        """The label of every node that has one, hashed."""
        if label not in self._labels:
            found = ((node, label(node)) for node in self.nodes)
            self._labels[label] = {node: hash(text) for node, text in found if text is not None}
        return self._labels[label]

    def producers(self, node: Node, known: Labels) -> tuple[Hashable, ...]:
        """What `node` reads, constants left to its label."""
        return tuple(
            (name, index, value.index, known[value.node] if value.node is not None else self._inputs.get(id(value)))
            for name, index, value in _sorted_operands(node)
            if value.constant is None
        )

    def users(self, node: Node, known: Labels) -> tuple[Hashable, ...]:
        """What reads `node`, in an order that does not depend on that of the uses."""
        found: list[tuple[int, str, int, int]] = []
        for result in node.results:
            for use in result.uses:
                at = known[use.user] if isinstance(use.user, Node) else self._outputs[id(use.user)]
                found.append((result.index, use.operand, -1 if use.index is None else use.index, at))
        return tuple(sorted(found))


# fingerprints, from strict to loose


def everything_around(side: LabelledGraph, labels: Labels) -> dict[Node, Hashable]:
    """All that a node is computed from, and all that is computed from it."""
    above = everything_above(side, labels)
    below: dict[Node, int] = {}
    for node in reversed(side.nodes):
        below[node] = hash((labels[node], side.users(node, below)))
    return {node: (above[node], below[node]) for node in side.nodes}


def everything_above(side: LabelledGraph, labels: Labels) -> dict[Node, int]:
    """All that a node is computed from."""
    known: dict[Node, int] = {}
    for node in side.nodes:
        known[node] = hash((labels[node], side.producers(node, known)))
    return known


def two_steps_around(side: LabelledGraph, labels: Labels) -> dict[Node, int]:
    """What is at most two steps away."""
    return one_step_around(side, one_step_around(side, labels))


def one_step_around(side: LabelledGraph, labels: Labels) -> dict[Node, int]:
    """What a node reads and what reads it."""
    return {node: hash((labels[node], side.producers(node, labels), side.users(node, labels))) for node in side.nodes}


def label_alone(side: LabelledGraph, labels: Labels) -> Labels:
    """Nothing but the label."""
    return labels

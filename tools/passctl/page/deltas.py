"""What changed from one state of a graph to the next, so that a page holds each record once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from graphpress.ir.graph import Graph
from graphpress.tools.passctl.page.encoding import Encoder, Record


@frozen
class State:
    """A graph as records, by name, in order."""

    nodes: Mapping[str, Record] = field(factory=dict)
    constants: Mapping[str, Record] = field(factory=dict)
    outputs: Sequence[Record] = ()

    @classmethod
    def of(cls, graph: Graph, encoder: Encoder) -> State:
        """The state of `graph`."""
        return cls(
            {node.name: encoder.node(node) for node in graph.nodes},
            {constant.name: encoder.constant(constant) for constant in graph.constants.values()},
            [encoder.output(output) for output in graph.outputs],
        )


def delta(before: State, after: State) -> dict[str, Any]:
    """What makes `after` of `before`; what stayed is left out.

    ``nodes`` and ``constants`` are new or changed records, ``gone`` and ``goneConstants`` names. ``order`` is there
    when nodes came, went or moved: runs ``[first, count]`` of the order before, and names between them.
    """
    changes = {
        "nodes": _new(before.nodes, after.nodes),
        "gone": [name for name in before.nodes if name not in after.nodes],
        "constants": _new(before.constants, after.constants),
        "goneConstants": [name for name in before.constants if name not in after.constants],
        "outputs": list(after.outputs) if after.outputs != before.outputs else [],
        "order": order_delta(list(before.nodes), list(after.nodes)),
    }
    return {name: change for name, change in changes.items() if change}


def order_delta(before: Sequence[str], after: Sequence[str]) -> list[Any]:
    """`after` as runs of `before` and new names; empty when both are the same."""
    if before == after:
        return []
    places = {name: place for place, name in enumerate(before)}
    runs: list[Any] = []
    for name in after:
        place = places.get(name)
        last = runs[-1] if runs else None
        if place is None:
            runs.append(name)
        elif isinstance(last, list) and last[0] + last[1] == place:
            last[1] += 1
        else:
            runs.append([place, 1])
    return runs


def _new(before: Mapping[str, Record], after: Mapping[str, Record]) -> list[Record]:
    return [record for name, record in after.items() if before.get(name) != record]

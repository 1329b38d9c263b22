"""Hook that records a run for the page, with changes as deltas."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from math import prod
from typing import Any

import attrs
from attrs import define, field, frozen

from graphpress.ir.annotations import annotation_name
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.graph import Constant, Graph, Input, Node, Output, Value
from graphpress.ir.location import Origin
from graphpress.ir.plain import finite, to_plain
from graphpress.ir.text.printer import constant_digest, value_text
from graphpress.passes.framework import Hook, Step, StepRecord
from graphpress.tools.passctl.as_data import drift_data
from graphpress.tools.passctl.console import PassctlError


@frozen
class State:
    """A graph as ordered records by name."""

    nodes: Mapping[str, Record] = field(factory=dict)
    constants: Mapping[str, Record] = field(factory=dict)
    outputs: Sequence[Record] = ()

    @classmethod
    def of(cls, graph: Graph, encoder: Encoder) -> State:
        """Return the state of `graph`."""
        return cls(
            {node.name: encoder.node(node) for node in graph.nodes},
            {constant.name: encoder.constant(constant) for constant in graph.constants.values()},
            [encoder.output(output) for output in graph.outputs],
        )


def delta(before: State, after: State) -> dict[str, Any]:
    """Return the changes from `before` to `after`.

    ``nodes`` and ``constants`` are new or changed records, ``gone`` and ``goneConstants`` removed names. ``order`` is
    present if nodes were added, removed or moved: runs ``[first, count]`` of the old order, and names in between.
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
    """Return `after` as runs of `before` and new names; empty if equal."""
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


Record = dict[str, Any]


@define(eq=False)
class Encoder:
    """Creates records, and the pool that they refer to."""

    pool: list[Any] = field(factory=list)
    _places: dict[str, int] = field(factory=dict)

    def node(self, node: Node) -> Record:
        """Return a node record: name, op, types, inputs, attributes, annotations, location; without empty fields."""
        record: Record = {"n": node.name, "o": node.op.name, "t": [self.pooled(str(r.type)) for r in node.results]}
        if node.operands:
            record["i"] = [[name, operand(value)] for name, value in node.operands.items()]
        if node.attributes:
            record["a"] = {name: value_text(value) for name, value in node.attributes.items()}
        if node.annotations:
            record["x"] = {annotation_name(kind): self.plain(note) for kind, note in node.annotations.items()}
        if node.location.origins:
            record["l"] = [self.origin(origin) for origin in node.location.origins]
        return record

    def constant(self, constant: Constant) -> Record:
        """Return a constant record: type, kind, qualified names, bytes in the model's dtype, and data hash."""
        type = constant.type
        sizes = [size for size in type.shape if isinstance(size, int)]
        is_static = len(sizes) == len(type.shape)
        return {
            "n": constant.name,
            "t": self.pooled(str(type)),
            "k": constant.kind,
            "q": list(constant.names),
            "b": (prod(sizes) * type.dtype.bits + 7) // 8 if is_static else None,
            "h": (constant_digest(constant) or "")[:16],
        }

    def input(self, graph_input: Input) -> Record:
        """Return an input record: its type, or its constant Python value."""
        if graph_input.value is None:
            return {"n": graph_input.name, "v": value_text(graph_input.literal)}
        return {"n": graph_input.name, "t": self.pooled(str(graph_input.value.type))}

    def output(self, output: Output) -> Record:
        """Return an output record: the returned value, and the target it writes to, if any."""
        record: Record = {"k": output.kind, "v": operand(output.literal if output.value is None else output.value)}
        return record if output.target is None else record | {"w": operand(output.target)}

    def origin(self, origin: Origin) -> int:
        """Return the index of an origin record: path and type of the innermost module, and the source line."""
        type_name = origin.scopes[-1].type_name if origin.scopes else ""
        return self.pooled([origin.module_path, type_name, origin.file, origin.line])

    def plain(self, value: Any) -> Any:
        """An annotation's value; attrs objects become ``{"$": place in the pool}``: a class and its fields there."""
        return finite(to_plain(value, self._special))

    def _special(self, value: Any) -> Any:
        if attrs.has(type(value)):
            fields = {each.name: self.plain(getattr(value, each.name)) for each in attrs.fields(type(value))}
            return {"$": self.pooled([type(value).__name__, fields])}
        if isinstance(value, tuple | list):
            return NotImplemented
        if isinstance(value, Mapping):
            return {"{": [[str(key), self.plain(item)] for key, item in value.items()]}
        if isinstance(value, Enum):
            return str(value.value)
        return value_text(value)

    def pooled(self, data: Any) -> int:
        """Return the index of `data` in the pool."""
        key = data if isinstance(data, str) else json.dumps(data)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.pool)
            self.pool.append(data)
        return place


def operand(value: Any) -> Any:
    """Return an operand: a reference, a list of operands, or ``{"=": text}`` for a Python value."""
    if isinstance(value, Value):
        return f"@{value.name}" if value.constant is not None else f"%{value.name}"
    if isinstance(value, tuple):
        return [operand(item) for item in value]
    return {"=": f"graph of {len(value.nodes)} nodes" if isinstance(value, Graph) else value_text(value)}


@define(eq=False)
class Recording(Hook):
    """Records every step of a run as changes, from `start` on.

    Attributes:
        start: the graph before the first step.
        only_changed: skip steps without changes.
        steps: plain data, the start first.
    """

    start: Graph
    only_changed: bool = False
    steps: list[dict[str, Any]] = field(factory=list, init=False)
    inputs: list[dict[str, Any]] = field(factory=list, init=False)
    encoder: Encoder = field(factory=Encoder, init=False)
    _state: State = field(factory=State, init=False)

    def __attrs_post_init__(self) -> None:
        self.inputs = [self.encoder.input(graph_input) for graph_input in self.start.inputs]
        self.steps.append({"label": "captured", "delta": self._advance(self.start)})

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Record the step."""
        if self.only_changed and not record.edits:
            return
        done = {
            "seconds": round(record.seconds, 6),
            "edits": {
                name: count
                for name in ("added", "removed", "changed", "constants", "rewrites")
                if (count := getattr(record, name))
            },
            "statistics": record.statistics,
            "remarks": [{"text": str(report), "node": report.node_name} for report in record.reports],
            "drift": [drift_data(drift) for drift in record.drift],
            "delta": self._advance(graph) if record.edits else {},
        }
        self.steps.append(_about(step) | {name: data for name, data in done.items() if data or name == "delta"})

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Record the failed step, if its graph can be rendered."""
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
        failed = _about(step) | {"error": message}
        try:
            failed["delta"] = self._advance(graph)
        except GraphpressError:  # a failed pass may leave an unprintable graph
            failed["delta"] = {}
        self.steps.append(failed)

    def check_node(self, name: str) -> None:
        """Raise if no step has a node of that name.

        Raises:
            PassctlError: with similar names.
        """
        nodes = (record for step in self.steps for record in step["delta"].get("nodes", ()))
        names = dict.fromkeys(record["n"] for record in nodes)
        if name not in names:
            raise PassctlError(f"the graph has no node {name!r} at any step{suggestion(name, names)}")

    def _advance(self, graph: Graph) -> dict[str, Any]:
        state = State.of(graph, self.encoder)
        changes, self._state = delta(self._state, state), state
        return changes


def _about(step: Step) -> dict[str, Any]:
    pass_ = step.pass_
    return {
        "label": step.label,
        "pass": pass_.name,
        "summary": inspect.cleandoc(type(pass_).__doc__ or "").split("\n\n")[0].replace("\n", " "),
        "effect": str(pass_.effect),
    }

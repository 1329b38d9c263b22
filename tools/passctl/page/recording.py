"""The hook that records a run for the page."""

from __future__ import annotations

import inspect
from typing import Any

from attrs import define, field

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.graph import Graph
from graphpress.passes.framework import Hook, Step, StepRecord
from graphpress.tools.passctl.as_data import drift_data
from graphpress.tools.passctl.errors import PassctlError
from graphpress.tools.passctl.page.deltas import State, delta
from graphpress.tools.passctl.page.encoding import Encoder


@define(eq=False)
class Recording(Hook):
    """Every step of a run as what it changed, from `start` on.

    Attributes:
        start: the graph before the first step.
        only_changed: leave out steps that changed nothing.
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
        """Record how far the step came, where its graph can be shown."""
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
        failed = _about(step) | {"error": message}
        try:
            failed["delta"] = self._advance(graph)
        except GraphpressError:  # a failed pass may leave what has no text
            failed["delta"] = {}
        self.steps.append(failed)

    def check_node(self, name: str) -> None:
        """Raise when no node has that name at any step.

        Raises:
            PassctlError: with near names.
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

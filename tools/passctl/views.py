"""Which part of a graph is shown, and when in a run."""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen

from graphpress.ir.graph import Graph
from graphpress.ir.printer import print_graph
from graphpress.ir.subgraph import extract, neighbourhood
from graphpress.passes.framework import Hook, Step, StepRecord
from graphpress.tools.passctl import console
from graphpress.tools.passctl.as_data import graph_data, record_data
from graphpress.tools.passctl.dot import dot_text


@frozen
class Snapshot:
    """A graph at one point of a run, and the steps that led there from the snapshot before."""

    title: str
    graph: Graph
    records: list[StepRecord] = field(factory=list)


@frozen
class View:
    """How graphs are shown.

    Attributes:
        locations: with module paths and source lines.
        focus: the node whose surroundings are shown; None shows everything.
        hops: how far the surroundings reach.
    """

    locations: bool = True
    focus: str | None = None
    hops: int = 2

    def text(self, graph: Graph) -> str:
        """The text form of what is shown."""
        return print_graph(self._shown(graph), locations=self.locations)

    def page(self, snapshots: list[Snapshot]) -> str:
        """Several graphs, each under a comment that says where it stands; one alone goes without."""
        if len(snapshots) == 1:
            return self.text(snapshots[0].graph)
        return "\n".join(f"// {_heading(snapshot)}\n{self.text(snapshot.graph)}" for snapshot in snapshots)

    def drawing(self, snapshot: Snapshot) -> str:
        """What is shown in Graphviz's language, with what the last step touched in colour."""
        touched = snapshot.records[-1].touched if snapshot.records else ()
        return dot_text(self._shown(snapshot.graph), _heading(snapshot), touched, self.locations)

    def data(self, snapshot: Snapshot) -> dict[str, Any]:
        """What is shown as plain data."""
        return {
            "at": snapshot.title,
            "steps": [record_data(record) for record in snapshot.records],
            "graph": graph_data(self._shown(snapshot.graph), self.locations),
        }

    def shows(self, graph: Graph) -> bool:
        """False when the node in focus is not there."""
        return self.focus is None or any(node.name == self.focus for node in graph.nodes)

    def _shown(self, graph: Graph) -> Graph:
        return graph if self.focus is None else extract(graph, neighbourhood(graph, self.focus, self.hops))


@define(eq=False)
class ChangedSnapshots(Hook):
    """Shows the graph it starts from, and the graph after every step that changed it, as far as `view` shows it.

    Graphs are kept as copies, or printed as they come.
    """

    start: Graph
    view: View
    is_printing: bool = False
    snapshots: list[Snapshot] = field(factory=list, init=False)
    shown: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._show(Snapshot("captured", self.start))

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Show the result of the step."""
        if record.edits:
            self._show(Snapshot(f"after {step.label}", graph, [record]))

    def check(self, last: Graph) -> None:
        """Raise when the node in focus was never there."""
        if not self.shown:
            self.view.text(last)

    def _show(self, snapshot: Snapshot) -> None:
        if not self.view.shows(snapshot.graph):
            return
        self.shown += 1
        if self.is_printing:
            console.print_ir(f"// {_heading(snapshot)}\n{self.view.text(snapshot.graph)}")
        else:
            self.snapshots.append(Snapshot(snapshot.title, snapshot.graph.clone(), snapshot.records))


def _heading(snapshot: Snapshot) -> str:
    return "; ".join([snapshot.title, *map(str, snapshot.records)])

"""Views: which part of a graph is shown, at which step, and in which format."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Self

from attrs import define, field, frozen

from graphpress.ir.graph import Graph, Node, Output
from graphpress.ir.subgraph import extract, neighbourhood
from graphpress.ir.text.printer import print_graph, types_text
from graphpress.passes.framework import Hook, Pipeline, RunResult, Step, StepRecord
from graphpress.passes.framework.steps import find_place
from graphpress.tools.passctl import console
from graphpress.tools.passctl.as_data import graph_data, record_data
from graphpress.tools.passctl.console import PassctlError

_ROUNDS = re.compile(r"(?:@\d+)+$")


@define(eq=False)
class _Stop(Hook):
    """Skips all steps after a point is reached.

    `point` is the address of a step or a repeat; ``dce#1@3`` is the step's third round. A step inside a repeat without
    a round means its first one.
    """

    point: str
    is_reached: bool = field(default=False, init=False)

    @classmethod
    def at(cls, point: str, pipeline: Pipeline) -> Self:
        """Return the hook for a point of `pipeline`; a bare pass name is accepted if it is unique.

        Raises:
            PipelineError: if no step or several steps match.
        """
        rounds = _ROUNDS.search(point)
        tail = rounds.group() if rounds else ""
        return cls(find_place(pipeline.steps, point.removesuffix(tail)).address + tail)

    def check(self, result: RunResult) -> None:
        """Raise if the run ended before the point."""
        if not self.is_reached:
            ran = ", ".join(record.step.label for record in result.records if not record.skipped) or "none"
            raise PassctlError(f"no step {self.point!r} ran; executed steps: {ran}")

    def is_at(self, step: Step) -> bool:
        """Return True for the step, and for every step inside the repeat."""
        return self.point in (step.address, step.label) or self.point in step.parents


class StopBefore(_Stop):
    """Stops right before a step, or before the first step of a repeat."""

    def allow(self, step: Step, graph: Graph) -> bool:
        """Return whether the point is still ahead."""
        self.is_reached = self.is_reached or self.is_at(step)
        return not self.is_reached


class StopAfter(_Stop):
    """Stops right after a step, or after all rounds of a repeat."""

    def allow(self, step: Step, graph: Graph) -> bool:
        """Return whether the point is ahead, or is this step."""
        if not self.is_at(step):
            return not self.is_reached
        is_new = not self.is_reached
        self.is_reached = True
        return is_new or self.point in step.parents


@define(eq=False)
class Around(StopAfter):
    """Stops right after a step, or after all rounds of a repeat, and keeps the graph from right before."""

    before_graph: Graph | None = field(default=None, init=False)

    def before(self, step: Step, graph: Graph) -> None:
        """Keep a copy of the graph."""
        if self.before_graph is None and self.is_at(step):
            self.before_graph = graph.clone()


def numbered(step: str, pipeline: Pipeline) -> str:
    """Return the address of a step given by its number in textual order, from 1; other texts are returned unchanged.

    Raises:
        PassctlError: if there is no step of that number.
    """
    if not step.isdigit():
        return step
    addresses = [each.address for each in pipeline]
    if not 1 <= int(step) <= len(addresses):
        raise PassctlError(f"no step number {step}; the pipeline has {len(addresses)}: {', '.join(addresses)}")
    return addresses[int(step) - 1]


_MOST_REMARKS = 10


def report_steps(result: RunResult) -> None:
    """Report every step with changes, with the first remarks of its pass."""
    ran = [record for record in result.records if not record.skipped]
    for record in ran:
        report_step(record)
    console.report(f"{len(ran)} steps ran, {sum(bool(r.edits) for r in ran)} changed something")
    for address in result.unsettled:
        console.report(f"{address} still changed something in its last round")


def report_step(record: StepRecord) -> None:
    """Report a step with changes, and its remarks."""
    if record.edits:
        console.report(str(record))
    for line in _remarks(record):
        console.report(f"  {line}")


def _remarks(record: StepRecord) -> Iterable[str]:
    yield from map(str, record.reports[:_MOST_REMARKS])
    if len(record.reports) > _MOST_REMARKS:
        yield f"and {len(record.reports) - _MOST_REMARKS} more remarks; --json lists all of them"


_STYLE = """  graph [rankdir=TB, fontname="Helvetica", labelloc=t]
  node [shape=box, style="rounded,filled", fillcolor=white, color="#9aa3b2", fontname="Helvetica", fontsize=11]
  edge [color="#8b93a3", fontname="Helvetica", fontsize=9, arrowsize=0.7]"""
_TOUCHED = 'fillcolor="#fdf0d5", color="#a86400"'


def dot_text(graph: Graph, title: str = "", touched: Collection[str] = (), locations: bool = True) -> str:
    """Return `graph` as a Graphviz digraph.

    Args:
        graph: the graph. Constants are dashed boxes; edges are labelled with the operand name.
        title: the title of the drawing.
        touched: names of nodes to colour.
        locations: whether to show the module of each node.
    """
    lines = [f"digraph {_quoted(title or graph.name)} {{", _STYLE]
    if title:
        lines.append(f"  label={_quoted(title)}")
    lines += (f"  {line}" for line in _lines(graph, touched, locations))
    return "\n".join([*lines, "}"]) + "\n"


def _lines(graph: Graph, touched: Collection[str], locations: bool) -> Iterator[str]:
    for graph_input in graph.inputs:
        if graph_input.value is not None:
            label = _label(graph_input.name, str(graph_input.value.type))
            yield f"{_quoted('%' + graph_input.name)} [label={label}, shape=ellipse]"
    for constant in graph.constants.values():
        label = _label(constant.name, f"{constant.type} {constant.kind}")
        yield f"{_quoted('@' + constant.name)} [label={label}, style=dashed, fontsize=9]"
    for node in graph.nodes:
        colour = f", {_TOUCHED}" if node.name in touched else ""
        yield f"{_quoted('%' + node.name)} [label={_node_label(node, locations)}{colour}]"
        for operand, index, value in node.operand_values():
            source = f"{'@' if value.constant is not None else '%'}{value.producer.name}"
            place = operand if index is None else f"{operand}[{index}]"
            yield f"{_quoted(source)} -> {_quoted('%' + node.name)} [label={_quoted(place)}]"
    for number, output in enumerate(graph.outputs):
        yield from _output_lines(number, output)


def _output_lines(number: int, output: Output) -> Iterator[str]:
    if output.value is None:
        return
    name = _quoted(f"output {number}")
    yield f"{name} [label={_label('output', output.kind.replace('_', ' '))}, shape=ellipse]"
    source = f"{'@' if output.value.constant is not None else '%'}{output.value.producer.name}"
    yield f"{_quoted(source)} -> {name}"


def _node_label(node: Node, locations: bool) -> str:
    where = [node.location.module_path] if locations and node.location.module_path else []
    return _label(f"{node.name} = {node.op.name}", *where, types_text(node))


def _label(*lines: str) -> str:
    return _quoted("\n".join(lines))


def _quoted(text: str) -> str:
    """Quote a DOT string, in which only quotes and backslashes are special, and ``\n`` ends a line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


@frozen
class Snapshot:
    """A graph at one point of a run, with the steps since the previous snapshot."""

    title: str
    graph: Graph
    records: list[StepRecord] = field(factory=list)


@frozen
class View:
    """Display options of graphs.

    Attributes:
        locations: whether to show module paths and source lines.
        focus: the node whose neighbourhood is shown; None shows everything.
        hops: the size of the neighbourhood.
    """

    locations: bool = True
    focus: str | None = None
    hops: int = 2

    def text(self, graph: Graph) -> str:
        """Return the text form of the visible part."""
        return print_graph(self._shown(graph), locations=self.locations)

    def page(self, snapshots: list[Snapshot]) -> str:
        """Join several graphs, each under a comment with its position; a single graph has no comment."""
        if len(snapshots) == 1:
            return self.text(snapshots[0].graph)
        return "\n".join(f"// {_heading(snapshot)}\n{self.text(snapshot.graph)}" for snapshot in snapshots)

    def drawing(self, snapshot: Snapshot) -> str:
        """Return the visible part in DOT, with nodes touched by the last step in colour."""
        touched = snapshot.records[-1].touched if snapshot.records else ()
        return dot_text(self._shown(snapshot.graph), _heading(snapshot), touched, self.locations)

    def data(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return the visible part as plain data."""
        return {
            "at": snapshot.title,
            "steps": [record_data(record) for record in snapshot.records],
            "graph": graph_data(self._shown(snapshot.graph), self.locations),
        }

    def shows(self, graph: Graph) -> bool:
        """Return False if the focused node does not exist."""
        return self.focus is None or any(node.name == self.focus for node in graph.nodes)

    def _shown(self, graph: Graph) -> Graph:
        return graph if self.focus is None else extract(graph, neighbourhood(graph, self.focus, self.hops))


@define(eq=False)
class ChangedSnapshots(Hook):
    """Shows the initial graph, and the graph after every step that changed its visible part.

    Graphs are kept as copies, or printed immediately.
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
        """Raise if the focused node never existed."""
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

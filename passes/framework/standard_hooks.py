"""The hook interface and the standard hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

from attrs import define, field, frozen
from attrs.validators import ge, instance_of, optional

from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import make_folder, write_file
from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewrite, Rewriter
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.steps import Step


class Hook:
    """Base class of observers of a run.

    Hooks nest: `before` is called in the order of the runner's hooks, `after` and `failed` in reverse. Each hook whose
    `before` returned gets exactly one of the two.
    """

    def allow(self, step: Step, graph: Graph) -> bool:
        """Return whether the step may run; it is skipped, without other calls, if any hook returns False."""
        return True

    def before(self, step: Step, graph: Graph) -> None:
        """Called before the step."""

    def rewriting(self, step: Step, rewriter: Rewriter) -> None:
        """Called after every `before`, with the pass's `rewriter`, whose rewrites may be limited here."""

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Called after the step; `record` may be extended."""

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Called when the step, or `before` or `after` of a nested hook, raised `error`."""


@frozen
class Verify(Hook):
    """Verifies the result of every step that edited more than annotations.

    The runner adds this hook by default.
    """

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Verify `graph`.

        Raises:
            VerificationError: naming the node at fault, its module path and source line.
        """
        from graphpress.ir.verifier import verify

        if record.changes_structure:
            verify(graph)


@define
class TimingEntry:
    """Total seconds and number of calls of one step, or of a repeat with its steps."""

    address: str
    seconds: float = 0.0
    calls: int = 0
    children: dict[str, TimingEntry] = field(factory=dict)

    def child(self, address: str) -> TimingEntry:
        """Return the entry of a nested step, created if missing."""
        return self.children.setdefault(address, TimingEntry(address))


@define(eq=False)
class Timing(Hook):
    """Measures the seconds per pass, as a tree along the repeats of the pipeline.

    Attributes:
        root: the tree; the seconds of a repeat are the sum of its steps.
    """

    root: TimingEntry = field(factory=lambda: TimingEntry("pipeline"), init=False)

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Add the step to every entry it belongs to."""
        entry = self.root
        entry.seconds += record.seconds
        for address in (*step.parents, step.address):
            entry = entry.child(address)
            entry.seconds += record.seconds
            entry.calls += 1

    def __str__(self) -> str:
        """Return the tree as a table."""
        lines = ["  seconds   share  calls  step"]

        def add(entry: TimingEntry, depth: int) -> None:
            share = entry.seconds / self.root.seconds if self.root.seconds else 0.0
            calls = str(entry.calls) if not entry.children else ""
            lines.append(f"{entry.seconds:9.4f}  {share:6.1%}  {calls:>5}  {'  ' * depth}{entry.address}")
            for child in entry.children.values():
                add(child, depth + 1)

        add(self.root, 0)
        return "\n".join(lines)


@define(eq=False)
class Statistics(Hook):
    """Accumulates edits and counters per step over all rounds.

    Attributes:
        by_step: by address, the counters of the pass by name, and ``nodes added``, ``nodes removed``, ``edits`` and
            ``constants``; zeros are omitted.
    """

    by_step: dict[str, dict[str, int]] = field(factory=dict, init=False)

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Add the counts of the step."""
        counters = self.by_step.setdefault(step.address, {})
        edits = {
            "nodes added": record.added,
            "nodes removed": record.removed,
            "edits": record.changed,
            "constants": record.constants,
        }
        for source in (edits, record.statistics):
            for name, amount in source.items():
                if amount:
                    counters[name] = counters.get(name, 0) + amount

    @property
    def totals(self) -> dict[str, int]:
        """Return the sums over all steps."""
        totals: dict[str, int] = {}
        for counters in self.by_step.values():
            for name, amount in counters.items():
                totals[name] = totals.get(name, 0) + amount
        return totals

    def __str__(self) -> str:
        """Return one line per step with non-zero counts."""
        lines = []
        for address, counters in self.by_step.items():
            if counters:
                lines.append(f"{address}: " + ", ".join(f"{name} {amount}" for name, amount in counters.items()))
        return "\n".join(lines)


class StepState(Enum):
    """The state of a step."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@frozen(eq=False)
class Progress(Hook):
    """Calls `callback(step, state)` as steps start and end; `step.index` and `step.total` tell the progress."""

    callback: Callable[[Step, StepState], None]

    def before(self, step: Step, graph: Graph) -> None:
        """Report the start."""
        self.callback(step, StepState.RUNNING)

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Report the end."""
        self.callback(step, StepState.DONE)

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Report the failure."""
        self.callback(step, StepState.FAILED)


@define(eq=False)
class Dump(Hook):
    """Writes the text form of the graph to numbered files: ``000-start.txt``, ``001-dce-1.txt`` and so on.

    Numbers count executed steps and do not depend on the filters. A failing step leaves ``...-failed.txt``, with the
    error at the top.

    Attributes:
        folder: the target folder, created if missing.
        only_changed: skip steps without changes.
        filter: a predicate on steps, or patterns such as ``fold-*`` or ``dce#2``, of which one must match.
    """

    folder: Path = field(converter=Path)
    only_changed: bool = False
    filter: Callable[[Step], bool] | Sequence[str] = field(default=("*",), kw_only=True)
    files: list[Path] = field(factory=list, init=False)
    _number: int = field(default=0, init=False)

    def before(self, step: Step, graph: Graph) -> None:
        """Write the graph before the first step."""
        if self._number == 0:
            self._write("start", graph)
        self._number += 1

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Write the result."""
        if self._wants(step) and (record.edits or not self.only_changed):
            self._write(step.label, graph)

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Write the graph that the failing step left."""
        self._write(f"{step.label}-failed", graph, f"// {type(error).__name__}: {error}".replace("\n", "\n// "))

    def _wants(self, step: Step) -> bool:
        if callable(self.filter):
            return self.filter(step)
        patterns = [self.filter] if isinstance(self.filter, str) else self.filter
        return any(fnmatchcase(step.address, p) or fnmatchcase(step.pass_.name, p) for p in patterns)

    def _write(self, title: str, graph: Graph, heading: str = "") -> None:
        from graphpress.ir.text.printer import print_graph

        try:
            text = print_graph(graph)
        except GraphpressError as error:  # a failed pass may leave an unprintable graph
            text = f"// the graph has no text form: {error}\n"
        make_folder(self.folder)
        path = self.folder / f"{self._number:03d}-{re.sub(r'[^A-Za-z0-9.-]+', '-', title)}.txt"
        write_file(path, f"{heading}\n{text}" if heading else text)
        self.files.append(path)


@define(eq=False)
class Bisect(Hook):
    """Runs only the first `limit` steps, and of the last of them only the first `rewrites` rewrites.

    Rewrites are defined in `graphpress.ir.rewriter`. An interrupted step leaves a valid graph; the facts its pass gives
    are not checked. Each instance is for one run.

    Attributes:
        limit: the number of steps to run; each round of a repeat counts.
        rewrites: the number of rewrites of the last of these steps; None for all.
        last: the last rewrite of that step, once it ran.
    """

    limit: int = field(validator=[instance_of(int), ge(0)])
    rewrites: int | None = field(default=None, validator=optional([instance_of(int), ge(0)]))
    _ran: int = field(default=0, init=False)
    _rewriter: Rewriter | None = field(default=None, init=False)

    @property
    def last(self) -> Rewrite | None:
        """The last rewrite of the last step so far."""
        return None if self._rewriter is None else self._rewriter.rewrites.last

    def allow(self, step: Step, graph: Graph) -> bool:
        """Return whether fewer than `limit` steps ran."""
        return self._ran < self.limit

    def before(self, step: Step, graph: Graph) -> None:
        """Count the step."""
        self._ran += 1

    def rewriting(self, step: Step, rewriter: Rewriter) -> None:
        """Limit the rewrites of the last step."""
        self._rewriter = rewriter
        if self._ran == self.limit:
            rewriter.rewrites.limit = self.rewrites

"""The interface of hooks, and the small ones: each watches the steps of a run for one purpose."""

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
    """Something that watches the steps of a run. Override what you need.

    Hooks nest: `before` is called in the order of the runner's hooks, `after` and `failed` in reverse. Each hook whose
    `before` returned gets exactly one of the two, whatever happens in between.
    """

    def allow(self, step: Step, graph: Graph) -> bool:
        """Whether the step may run. It is skipped when any hook says no; then nothing else is called."""
        return True

    def before(self, step: Step, graph: Graph) -> None:
        """The step is about to run."""

    def rewriting(self, step: Step, rewriter: Rewriter) -> None:
        """The pass is about to get `rewriter`, whose rewrites may be limited here. Called after every `before`."""

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """The step ran; `record` may be added to."""

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """The step, or the `before` or `after` of a hook nested inside this one, raised `error`."""


@frozen
class Verify(Hook):
    """Run the verifier on the result of every step that edited more than annotations, which it does not look at.

    The runner adds it by itself.
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
    """One step, or a repeat with its steps: seconds over all rounds, and how often it ran."""

    address: str
    seconds: float = 0.0
    calls: int = 0
    children: dict[str, TimingEntry] = field(factory=dict)

    def child(self, address: str) -> TimingEntry:
        """The entry of a step inside; made when it is new."""
        return self.children.setdefault(address, TimingEntry(address))


@define(eq=False)
class Timing(Hook):
    """Adds up the seconds each pass took, as a tree that follows the repeats of the pipeline.

    Attributes:
        root: the tree; the seconds of a repeat are those of its steps.
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
        """The tree as a table."""
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
    """Adds up edits and counters by step, over all rounds.

    Attributes:
        by_step: for each address, the counters of the pass by name, and ``nodes added``, ``nodes removed``, ``edits``
            and ``constants`` as the rewriter counted them; zeros left out.
    """

    by_step: dict[str, dict[str, int]] = field(factory=dict, init=False)

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Add what the step did."""
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
        """The counters of all steps together."""
        totals: dict[str, int] = {}
        for counters in self.by_step.values():
            for name, amount in counters.items():
                totals[name] = totals.get(name, 0) + amount
        return totals

    def __str__(self) -> str:
        """One line per step that did something."""
        lines = []
        for address, counters in self.by_step.items():
            if counters:
                lines.append(f"{address}: " + ", ".join(f"{name} {amount}" for name, amount in counters.items()))
        return "\n".join(lines)


class StepState(Enum):
    """Where a step is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@frozen(eq=False)
class Progress(Hook):
    """Calls `callback(step, state)` as steps start and end; `step.index` and `step.total` say how far the run is."""

    callback: Callable[[Step, StepState], None]

    def before(self, step: Step, graph: Graph) -> None:
        """The step starts."""
        self.callback(step, StepState.RUNNING)

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """The step is done."""
        self.callback(step, StepState.DONE)

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """The step failed."""
        self.callback(step, StepState.FAILED)


@define(eq=False)
class Dump(Hook):
    """Write the text form of the graph to numbered files: ``000-start.txt``, then ``001-dce-1.txt`` and so on.

    Numbers count the steps that ran, so they stay the same when files are left out. A step that fails leaves
    ``...-failed.txt``, with the error on top.

    Attributes:
        folder: where to; made when it is not there.
        only_changed: leave out steps that changed nothing.
        filter: which steps: a predicate, or patterns such as ``fold-*`` or ``dce#2`` of which one must fit.
    """

    folder: Path = field(converter=Path)
    only_changed: bool = False
    filter: Callable[[Step], bool] | Sequence[str] = field(default=("*",), kw_only=True)
    files: list[Path] = field(factory=list, init=False)
    _number: int = field(default=0, init=False)

    def before(self, step: Step, graph: Graph) -> None:
        """Write what the first step starts from."""
        if self._number == 0:
            self._write("start", graph)
        self._number += 1

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Write the result."""
        if self._wants(step) and (record.edits or not self.only_changed):
            self._write(step.label, graph)

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Write what the failing step left."""
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
        except GraphpressError as error:  # a failed pass may leave what cannot be printed
            text = f"// the graph has no text form: {error}\n"
        make_folder(self.folder)
        path = self.folder / f"{self._number:03d}-{re.sub(r'[^A-Za-z0-9.-]+', '-', title)}.txt"
        write_file(path, f"{heading}\n{text}" if heading else text)
        self.files.append(path)


@define(eq=False)
class Bisect(Hook):
    """Run only the first `limit` steps, and of the last of them only the first `rewrites` rewrites.

    What is a rewrite says `graphpress.ir.rewriter`. A step that is cut off leaves a valid graph; the facts its pass
    gives are not checked. One such hook is for one run.

    Attributes:
        limit: how many steps run; each round of a repeat counts.
        rewrites: how many rewrites of the last of these steps are made; None for all.
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
        """Whether fewer than `limit` steps ran."""
        return self._ran < self.limit

    def before(self, step: Step, graph: Graph) -> None:
        """Count the step."""
        self._ran += 1

    def rewriting(self, step: Step, rewriter: Rewriter) -> None:
        """Limit the rewrites of the last step."""
        self._rewriter = rewriter
        if self._ran == self.limit:
            rewriter.rewrites.limit = self.rewrites

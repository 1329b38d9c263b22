"""The hook that tells where the time went."""

from __future__ import annotations

from attrs import define, field

from graphpress.ir.graph import Graph
from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.steps import Step


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

"""Records of a run, one per step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from attrs import define, field

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph
from graphpress.passes.framework.effects import Drift
from graphpress.passes.framework.errors import PipelineError
from graphpress.passes.framework.passes import Pass, Report
from graphpress.passes.framework.steps import Step

T = TypeVar("T")


@define(eq=False)
class StepRecord:
    """The recorded edits of one step.

    Attributes:
        step: the step, including `address` and `pass_`.
        added, removed: numbers of nodes.
        changed: number of changed operands, attributes, annotations and uses.
        constants: number of constants added, replaced or removed.
        annotated: number of changed annotations among `changed`.
        rewrites: number of rewrites; see `graphpress.ir.rewriter`.
        touched: names of the nodes added or changed that still exist.
        seconds: duration of `Pass.run`, without hooks and checks.
        statistics: the counters of the pass.
        reports: its remarks.
        drift: the change of each output, if a hook measured it.
        skipped: True if a hook did not allow the step.
        is_cut: True if a hook limited the rewrites of the pass, whose facts then do not hold.
    """

    step: Step
    added: int = 0
    removed: int = 0
    changed: int = 0
    constants: int = 0
    annotated: int = 0
    rewrites: int = 0
    touched: tuple[str, ...] = ()
    seconds: float = 0.0
    statistics: dict[str, int] = field(factory=dict)
    reports: list[Report] = field(factory=list)
    drift: tuple[Drift, ...] = ()
    skipped: bool = False
    is_cut: bool = False

    @property
    def address(self) -> str:
        """The step's address, such as ``dce#2``."""
        return self.step.address

    @property
    def pass_(self) -> Pass:
        """The pass that ran."""
        return self.step.pass_

    def remarks(self, kind: type[T]) -> list[T]:
        """The remarks that are records of `kind`, such as `SkippedWeight`."""
        return [report.remark for report in self.reports if isinstance(report.remark, kind)]

    @property
    def edits(self) -> int:
        """The total number of edits."""
        return self.added + self.removed + self.changed + self.constants

    @property
    def changes_structure(self) -> bool:
        """True if anything but annotations was edited."""
        return self.edits > self.annotated

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.step.label}: skipped"
        names = ("added", "removed", "changed", "constants")
        done = ", ".join(f"{getattr(self, name)} {name}" for name in names if getattr(self, name))
        return f"{self.step.label}: {done or 'nothing changed'}"


@define(eq=False)
class RunResult:
    """The result of a pipeline run.

    Attributes:
        graph: the resulting graph.
        records: one per executed step, in order; steps inside a repeat have one per round.
        unsettled: addresses of repeats that still changed the graph in their last round.
    """

    graph: Graph
    records: list[StepRecord] = field(factory=list)
    unsettled: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The total duration of all passes."""
        return sum(record.seconds for record in self.records)

    @property
    def changed(self) -> bool:
        """True if any step edited the graph."""
        return any(record.edits for record in self.records)

    def remarks(self, kind: type[T]) -> list[T]:
        """The remarks of all steps that are records of `kind`, such as `SkippedWeight`."""
        return [remark for record in self.records for remark in record.remarks(kind)]

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(self.records)

    def record(self, address: str) -> StepRecord:
        """Return the record with this address or label; for several rounds, that of the last.

        Raises:
            PipelineError: if no such step ran.
        """
        for record in reversed(self.records):
            if address in (record.address, record.step.label, record.address.removesuffix("#1")):
                return record
        raise PipelineError(f"no step {address!r} ran{suggestion(address, [r.address for r in self.records])}")

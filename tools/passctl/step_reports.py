"""What the steps of a run did, in lines on stderr."""

from __future__ import annotations

from collections.abc import Iterable

from graphpress.passes.framework import RunResult, StepRecord
from graphpress.tools.passctl import console

_MOST_REMARKS = 10


def report_steps(result: RunResult) -> None:
    """One line per step that changed something, with the first remarks of its pass."""
    ran = [record for record in result.records if not record.skipped]
    for record in ran:
        report_step(record)
    console.report(f"{len(ran)} steps ran, {sum(bool(r.edits) for r in ran)} changed something")
    for address in result.unsettled:
        console.report(f"{address} still changed something in its last round")


def report_step(record: StepRecord) -> None:
    """A line for a step that changed something, and its remarks."""
    if record.edits:
        console.report(str(record))
    for line in _remarks(record):
        console.report(f"  {line}")


def _remarks(record: StepRecord) -> Iterable[str]:
    yield from map(str, record.reports[:_MOST_REMARKS])
    if len(record.reports) > _MOST_REMARKS:
        yield f"and {len(record.reports) - _MOST_REMARKS} remarks more; --json has them all"

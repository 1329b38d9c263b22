"""The hook that tells how far a run is."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from attrs import frozen

from graphpress.ir.graph import Graph
from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.steps import Step


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

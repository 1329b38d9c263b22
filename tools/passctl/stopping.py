"""Running a pipeline up to a point."""

from __future__ import annotations

import re

from attrs import define, field

from graphpress.ir.graph import Graph
from graphpress.passes.framework import Hook, Pipeline, RunResult, Step
from graphpress.passes.framework.steps import find_place
from graphpress.tools.passctl.errors import PassctlError

_ROUNDS = re.compile(r"(?:@\d+)+$")


@define(eq=False)
class _Stop(Hook):
    """Lets no step run any more once the point is reached.

    `point` is the address of a step or a repeat; ``dce#1@3`` is the step's third round. A step inside a repeat
    without a round is its first one.
    """

    point: str
    is_reached: bool = field(default=False, init=False)

    @classmethod
    def at(cls, point: str, pipeline: Pipeline) -> _Stop:
        """The hook for a point of `pipeline`; a bare pass name will do where only one step has it.

        Raises:
            PipelineError: when no step, or more than one, is meant.
        """
        rounds = _ROUNDS.search(point)
        tail = rounds.group() if rounds else ""
        return cls(find_place(pipeline.steps, point.removesuffix(tail)).address + tail)

    def check(self, result: RunResult) -> None:
        """Raise when the run ended without having come to the point."""
        if not self.is_reached:
            ran = ", ".join(record.step.label for record in result.records if not record.skipped) or "none"
            raise PassctlError(f"no step {self.point!r} ran; those that ran are {ran}")

    def is_at(self, step: Step) -> bool:
        """True for the step meant, and for every step inside the repeat meant."""
        return self.point in (step.address, step.label) or self.point in step.parents


class StopBefore(_Stop):
    """Stop right before a step, or before the first step of a repeat."""

    def allow(self, step: Step, graph: Graph) -> bool:
        """Whether the point is still ahead."""
        self.is_reached = self.is_reached or self.is_at(step)
        return not self.is_reached


class StopAfter(_Stop):
    """Stop right after a step, or after all rounds of a repeat."""

    def allow(self, step: Step, graph: Graph) -> bool:
        """Whether the point is ahead, or this is it."""
        if not self.is_at(step):
            return not self.is_reached
        is_new = not self.is_reached
        self.is_reached = True
        return is_new or self.point in step.parents

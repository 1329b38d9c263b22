"""Running a pipeline up to a point."""

from __future__ import annotations

import re
from typing import Self

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
    def at(cls, point: str, pipeline: Pipeline) -> Self:
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


@define(eq=False)
class Around(StopAfter):
    """Stop right after a step, or after all rounds of a repeat, and keep the graph from right before."""

    before_graph: Graph | None = field(default=None, init=False)

    def before(self, step: Step, graph: Graph) -> None:
        """Keep a copy of the graph."""
        if self.before_graph is None and self.is_at(step):
            self.before_graph = graph.clone()


def numbered(step: str, pipeline: Pipeline) -> str:
    """The address of a step given by its number in the order of the text, from 1; other texts as they are.

    Raises:
        PassctlError: when there is no step of that number.
    """
    if not step.isdigit():
        return step
    addresses = [each.address for each in pipeline]
    if not 1 <= int(step) <= len(addresses):
        raise PassctlError(f"no step number {step}; the pipeline has {len(addresses)}: {', '.join(addresses)}")
    return addresses[int(step) - 1]

"""Making a failing case small: delta debugging of graph, tensors and pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import define, evolve, frozen

from graphpress.ir.errors import GraphpressError
from graphpress.ir.interpreter import InterpreterError
from graphpress.ir.verifier import VerificationError, verify
from graphpress.passes.framework.reproduction import Case
from graphpress.passes.framework.smaller_graphs import fewer_outputs, remove_nodes, values_in_a_run
from graphpress.passes.framework.smaller_pipelines import shorter_pipelines
from graphpress.passes.framework.smaller_tensors import simpler_values, smaller_extents

MAX_TRIALS = 1000


class ReductionError(GraphpressError):
    """A case that does not fail, so that there is nothing to keep while it is made small."""


@frozen(eq=False)
class Reduction:
    """A case made small.

    Attributes:
        case: the smallest that still fails.
        trials: how many were tried.
        is_minimal: False when the trials ran out before nothing could be taken away any more.
    """

    case: Case
    trials: int
    is_minimal: bool


def reduce(
    case: Case,
    still_fails: Callable[[Case], bool] | None = None,
    *,
    max_trials: int = MAX_TRIALS,
    progress: Callable[[Case, int], None] | None = None,
) -> Reduction:
    """Take away from `case` whatever the failure does not need.

    First steps of the pipeline, then nodes (what a part of the graph reads becomes an input, with the value it has in a
    run), outputs, and last the extents and values of tensors; over and over, until nothing can be taken away. Only
    graphs that are valid are tried.

    Args:
        case: what fails; it stays as it is.
        still_fails: says whether a candidate fails in the same way. If not given, it does when the same kind of
            exception leaves the same pass from the same place in the code.
        max_trials: how many candidates to try at most.
        progress: called with every smaller case and the number of trials so far.

    Raises:
        ReductionError: when `case` does not fail.
    """
    if still_fails is None:
        failure = case.attempt()
        if failure is None:
            raise ReductionError("the case does not fail, so there is nothing to reduce")
        still_fails = lambda candidate: candidate.attempt() == failure  # noqa: E731
    elif not still_fails(case):
        raise ReductionError("the check finds nothing wrong with the case, so there is nothing to reduce")
    reducer = _Reducer(_prepared(case), still_fails, max_trials, progress)
    try:
        reducer.run()
    except _OutOfTrials:
        return Reduction(reducer.case, reducer.trials, is_minimal=False)
    return Reduction(reducer.case, reducer.trials, is_minimal=True)


def _prepared(case: Case) -> Case:
    """With an input given for each of the graph's; with none that it cannot run on, where the failure takes none."""
    expected = case.graph.inputs
    if case.inputs is not None and len(case.inputs) != len(expected):
        given = iter(case.inputs)
        case = evolve(case, inputs=[each.literal if each.value is None else next(given, None) for each in expected])
    try:
        values_in_a_run(case)
    except InterpreterError:
        return case if case.holds_numbers else evolve(case, inputs=None)
    return case


class _OutOfTrials(Exception):
    """There may be something left to take away."""


@define(eq=False)
class _Reducer:
    case: Case
    still_fails: Callable[[Case], bool]
    max_trials: int
    progress: Callable[[Case, int], None] | None
    trials: int = 0
    accepted: int = 0

    def run(self) -> None:
        before = -1
        while before != self.accepted:
            before = self.accepted
            self.exhaust(shorter_pipelines)
            remove_nodes(lambda: self.case, self.accept, self.known_values())
            self.exhaust(fewer_outputs)
            self.exhaust(smaller_extents)
            self.exhaust(simpler_values)

    def exhaust(self, candidates: Callable[[Case], Iterator[Case | None]]) -> None:
        """Take the first candidate that fails, and candidates made of it, until none does."""
        while any(self.accept(candidate) for candidate in candidates(self.case)):
            pass

    def accept(self, candidate: Case | None) -> bool:
        if candidate is None or not self.is_valid(candidate):
            return False
        if self.trials >= self.max_trials:
            raise _OutOfTrials
        self.trials += 1
        if not self.still_fails(candidate):
            return False
        self.case = candidate
        self.accepted += 1
        if self.progress is not None:
            self.progress(candidate, self.trials)
        return True

    def is_valid(self, candidate: Case) -> bool:
        try:
            verify(candidate.graph)
        except VerificationError:
            return False
        return True

    def known_values(self) -> dict[str, object]:
        try:
            return values_in_a_run(self.case)
        except InterpreterError:
            return {}

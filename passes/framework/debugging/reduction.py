"""Reduction of failing cases by delta debugging of graph, tensors and pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
from attrs import define, evolve, frozen

from graphpress.ir.errors import GraphpressError
from graphpress.ir.interpreter import InterpreterError
from graphpress.ir.plain import changed_fields
from graphpress.ir.verifier import VerificationError, verify
from graphpress.passes.framework.debugging.reproduction import Case
from graphpress.passes.framework.debugging.smaller_graphs import (
    fewer_outputs,
    remove_nodes,
    simpler_values,
    smaller_dims,
    values_in_a_run,
)
from graphpress.passes.framework.errors import PipelineError
from graphpress.passes.framework.facts import Fact
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.runner import Runner
from graphpress.passes.framework.steps import Repeat, StepLike


def shorter_pipelines(case: Case) -> Iterator[Case | None]:
    """Yield shorter pipelines: the first step applied, a step removed, a repeat unrolled once, an option removed.

    Facts that the steps need are assumed, so that no step is kept for the fact it gives. None represents an invalid
    order.
    """
    steps = case.pipeline.steps
    if len(steps) > 1:
        done = _done(case, steps[0])
        if done is not None:
            yield _with_steps(done, steps[1:])
        for place in reversed(range(len(steps))):
            yield _with_steps(case, steps[:place] + steps[place + 1 :])
    for place, step in enumerate(steps):
        for simpler in _simpler(step):
            yield _with_steps(case, (*steps[:place], *simpler, *steps[place + 1 :]))


def _with_steps(case: Case, steps: tuple[StepLike, ...]) -> Case | None:
    try:
        return evolve(case, pipeline=_pipeline(steps))
    except PipelineError:  # a step needs a fact that an earlier step breaks
        return None


def _done(case: Case, step: StepLike) -> Case | None:
    try:
        result = Runner().run(case.graph, _pipeline((step,)))
    except Exception:
        return None
    return evolve(case, graph=result.graph)


def _simpler(step: StepLike) -> Iterator[tuple[StepLike, ...]]:
    if isinstance(step, Repeat):
        yield step.steps
        for place in range(len(step.steps)):
            for simpler in _simpler(step.steps[place]):
                yield (Repeat(*step.steps[:place], *simpler, *step.steps[place + 1 :], max=step.max),)
        return
    required = {a.alias for a in attrs.fields(type(step)) if a.default is attrs.NOTHING}
    options = changed_fields(step)
    for name in options:
        if name not in required:
            try:
                yield (type(step)(**{other: value for other, value in options.items() if other != name}),)
            except (TypeError, ValueError):  # an option that another option depends on
                continue


def _pipeline(steps: tuple[StepLike, ...]) -> Pipeline:
    """Return a pipeline that assumes every fact its steps need, unless an earlier step breaks it."""
    return Pipeline(*steps, assume=_needs(steps))


def _needs(steps: tuple[StepLike, ...]) -> frozenset[Fact]:
    each = [step.needs if isinstance(step, Pass) else _needs(step.steps) for step in steps]
    return frozenset().union(*each)


MAX_TRIALS = 1000


class ReductionError(GraphpressError):
    """A case that does not fail, and so cannot be reduced."""


@frozen(eq=False)
class Reduction:
    """A reduced case.

    Attributes:
        case: the smallest case that still fails.
        trials: the number of candidates tried.
        is_minimal: False if the trials were used up before no candidate failed any more.
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
    """Remove everything from `case` that the failure does not need.

    Removes pipeline steps, then nodes (values they computed become inputs, with the values of a run), outputs, and last
    shrinks dims and values of tensors; repeatedly, until no candidate fails. Only valid graphs are tried.

    Args:
        case: the failing case; it is not changed.
        still_fails: tests whether a candidate fails in the same way. By default: the same exception class from the same
            pass and the same place in the code.
        max_trials: the maximum number of candidates.
        progress: called with every smaller case and the number of trials so far.

    Raises:
        ReductionError: if `case` does not fail.
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
    except _TrialsExhausted:
        return Reduction(reducer.case, reducer.trials, is_minimal=False)
    return Reduction(reducer.case, reducer.trials, is_minimal=True)


def _prepared(case: Case) -> Case:
    """Return the case with example inputs if it has none, or without inputs that it does not need and cannot run on."""
    expected = case.graph.inputs
    if case.inputs is not None and len(case.inputs) != len(expected):
        given = iter(case.inputs)
        case = evolve(case, inputs=[each.literal if each.value is None else next(given, None) for each in expected])
    try:
        values_in_a_run(case)
    except InterpreterError:
        return case if case.holds_numbers else evolve(case, inputs=None)
    return case


class _TrialsExhausted(Exception):
    """The trials are used up."""


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
            self.exhaust(smaller_dims)
            self.exhaust(simpler_values)

    def exhaust(self, candidates: Callable[[Case], Iterator[Case | None]]) -> None:
        """Take the first failing candidate and continue with its candidates, until none fails."""
        while any(self.accept(candidate) for candidate in candidates(self.case)):
            pass

    def accept(self, candidate: Case | None) -> bool:
        if candidate is None or not self.is_valid(candidate):
            return False
        if self.trials >= self.max_trials:
            raise _TrialsExhausted
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

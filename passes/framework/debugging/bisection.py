"""Bisection of a pipeline run to the first bad step and rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import InterpreterError
from graphpress.passes.framework.debugging.reproduction import Case
from graphpress.passes.framework.debugging.rewrite_bisection import BadRewrite, Check, first_bad_rewrite
from graphpress.passes.framework.effects import Effect
from graphpress.passes.framework.errors import BisectionError, FactError, NumericDrift
from graphpress.passes.framework.numerics import Numerics, compare, execute
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.runner import Runner
from graphpress.passes.framework.standard_hooks import Hook
from graphpress.passes.framework.steps import Step


@frozen(eq=False)
class Bisection:
    """The first bad step of a run.

    Attributes:
        step: the step, with its round if it is in a repeat.
        problem: what is wrong after it.
        before: the good graph before the step.
        error: the exception of the step; None if it completed with a bad result.
        rewrite: the first bad rewrite of the step; None if no single rewrite is to blame.
    """

    step: Step
    problem: str
    before: Graph
    error: Exception | None = None
    rewrite: BadRewrite | None = None

    def case(self, inputs: Sequence[Any] | None = None, seed: int = 0) -> Case:
        """Return the step alone on the graph before it."""
        pipeline = Pipeline(self.step.pass_, assume=self.step.pass_.needs)
        return Case(self.before, pipeline, inputs, seed, isinstance(self.error, NumericDrift | InterpreterError))

    def __str__(self) -> str:
        rewrite = f"first bad {self.rewrite}" if self.rewrite is not None else "no single rewrite of it is to blame"
        problem = self.problem.replace("\n", "\n  ")
        return f"first bad step: {self.step.label}\n  {problem}\n{rewrite}"


def bisect(graph: Graph, pipeline: Pipeline, is_good: Check) -> Bisection | None:
    """Find the first step, and its first rewrite, after which the graph is bad.

    A failing step is bad too. Everything before the first bad step is assumed good.

    Args:
        graph: the initial graph; it is not changed.
        pipeline: the pipeline to run. Each step runs once; the graphs between steps are kept, sharing tensors.
        is_good: tests a graph. Its exceptions end the search.

    Returns:
        None if the result is good.

    Raises:
        BisectionError: if `graph` itself is bad.
    """
    if not is_good(graph):
        raise BisectionError("the graph is bad before the first step, so no step is to blame")
    history = _History(graph)
    error = history.run(graph, pipeline)
    states = history.states
    if not states or is_good(states[-1].after):
        if error is None:
            return None
        return _failed_step(history, error, is_good=None)
    good, bad = -1, len(states) - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(states[middle].after):
            good = middle
        else:
            bad = middle
    step, before = states[bad].step, states[bad].before
    rewrite = first_bad_rewrite(before, step.pass_, is_good)
    return Bisection(step, "the check fails on its result", before, rewrite=rewrite)


def bisect_numerics(
    graph: Graph, pipeline: Pipeline, inputs: Sequence[Any], seed: int = 0, effect: Effect | None = None
) -> Bisection | None:
    """Find the first step, and its first rewrite, that changes the outputs too much.

    Args:
        graph: the initial graph; it is not changed.
        pipeline: the pipeline to run.
        inputs: flat inputs of the graph.
        seed: the seed of random ops.
        effect: the tolerance relative to the outputs of `graph`; by default each step is compared with the previous one
            under the effect of its pass.

    Returns:
        None if all outputs are within tolerance.

    Raises:
        InterpreterError: if `graph` does not run on the inputs.
    """
    start = execute(graph, inputs, seed)
    if effect is not None:
        return bisect(graph, pipeline, lambda other: _is_held(start, other, inputs, seed, effect))
    history = _History(graph)
    error = history.run(graph, pipeline, Numerics(inputs, seed))
    if error is None:
        return None
    assert history.step is not None
    if not isinstance(error, NumericDrift | InterpreterError):
        return _failed_step(history, error, is_good=None)
    before = execute(history.last, inputs, seed)
    allowed = history.step.pass_.effect
    return _failed_step(history, error, is_good=lambda other: _is_held(before, other, inputs, seed, allowed))


def _failed_step(history: _History, error: Exception, is_good: Check | None) -> Bisection:
    """Describe a step that raised; a missing fact is not the fault of a single rewrite."""
    step = history.step
    if step is None:
        raise error
    problem = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    lacks_fact = isinstance(error, FactError)
    rewrite = None if lacks_fact else first_bad_rewrite(history.last, step.pass_, is_good)
    return Bisection(step, problem, history.last, error, rewrite)


def _is_held(before: Any, other: Graph, inputs: Sequence[Any], seed: int, effect: Effect) -> bool:
    try:
        after = execute(other, inputs, seed)
    except InterpreterError:
        return False
    return all(drift.is_held for drift in compare(before, after, effect))


@frozen(eq=False)
class _State:
    step: Step
    before: Graph
    after: Graph


@define(eq=False)
class _History(Hook):
    """Hook that keeps the graph after every step that changed it, and the failed step."""

    last: Graph
    states: list[_State] = field(factory=list)
    step: Step | None = None

    def run(self, graph: Graph, pipeline: Pipeline, *hooks: Hook) -> Exception | None:
        """Run `pipeline`, and return the exception of a failing step."""
        try:
            Runner([self, *hooks]).run(graph, pipeline)
        except Exception as error:
            return error
        return None

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        if record.edits:
            state = _State(step, self.last, graph.clone())
            self.states.append(state)
            self.last = state.after

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        self.step = step

"""Shorter pipelines made of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from attrs import evolve

from graphpress.passes.framework.errors import PipelineError
from graphpress.passes.framework.facts import Fact
from graphpress.passes.framework.option_values import changed_fields
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.reproduction import Case
from graphpress.passes.framework.runner import Runner
from graphpress.passes.framework.steps import Repeat, StepLike


def shorter_pipelines(case: Case) -> Iterator[Case | None]:
    """The first step done already, its result being the graph; one step less; a repeat's steps once; an option less.

    What the steps need is assumed: a step is not kept for the fact it gives. None stands for steps in an impossible
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
    except PipelineError:  # a step needs what an earlier one breaks
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
            except (TypeError, ValueError):  # an option that another one depends on
                continue


def _pipeline(steps: tuple[StepLike, ...]) -> Pipeline:
    """A pipeline whose steps find every fact they need, unless an earlier one of them breaks it."""
    return Pipeline(*steps, assume=_needs(steps))


def _needs(steps: tuple[StepLike, ...]) -> frozenset[Fact]:
    each = [step.needs if isinstance(step, Pass) else _needs(step.steps) for step in steps]
    return frozenset().union(*each)

"""Replayable failures: a graph, a pipeline, inputs, and a description of the failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from attrs import define, field, frozen

from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import InterpreterError
from graphpress.passes.framework.errors import NumericDrift, PassFailed
from graphpress.passes.framework.numerics import Numerics
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.runner import Runner
from graphpress.passes.framework.standard_hooks import Hook
from graphpress.passes.framework.steps import Step

_CHECK = "bad by a command"


@frozen
class Failure:
    """A failure of a run, in a form that can be compared with others.

    Attributes:
        error: class of the exception that left the run.
        cause: class of the exception that left the pass, if `error` wraps one.
        pass_name: the pass of the failed step.
        place: module and function that raised.
        is_infinite: for drift: the outputs are not comparable.
        message: the whole text; not compared.
    """

    error: str
    cause: str = ""
    pass_name: str = ""
    place: str = ""
    is_infinite: bool = False
    message: str = field(default="", eq=False)

    @classmethod
    def of(cls, error: BaseException, step: Step | None) -> Failure:
        """Return the failure for `error`, raised at `step`."""
        origin = error.__cause__ if isinstance(error, PassFailed) and error.__cause__ is not None else error
        return cls(
            type(error).__name__,
            "" if origin is error else type(origin).__name__,
            "" if step is None else step.pass_.name,
            _place(origin.__traceback__),
            isinstance(error, NumericDrift) and not math.isfinite(error.error),
            "\n".join([str(error), *getattr(error, "__notes__", ())]),
        )

    @property
    def takes_inputs(self) -> bool:
        """True if only a run of the graph shows it: wrong numbers, or a graph that does not run."""
        return self.error in (NumericDrift.__name__, InterpreterError.__name__)

    @classmethod
    def of_check(cls, command: str, step: Step | None) -> Failure:
        """Return the failure of a graph that the check command `command` rejects."""
        name = "" if step is None else step.pass_.name
        return cls(_CHECK, pass_name=name, message=f"the check {command!r} finds the result bad")

    @property
    def is_check(self) -> bool:
        """True if only a check command rejects the result."""
        return self.error == _CHECK

    def is_like(self, other: Failure) -> bool:
        """Return True for the same kind of failure of the same pass, wherever in the code it was raised."""
        return (self.error, self.cause, self.pass_name) == (other.error, other.cause, other.pass_name)

    def __str__(self) -> str:
        cause = f" ({self.cause})" if self.cause else ""
        return f"{self.error}{cause} in {self.pass_name or 'no step'}"


@frozen(eq=False)
class Case:
    """A graph and a pipeline to run.

    Attributes:
        graph: the initial graph; it is not changed.
        pipeline: the pipeline.
        inputs: flat inputs of the graph, or None.
        seed: the seed of random ops.
        holds_numbers: whether every step is checked against the effect of its pass, which needs inputs.
    """

    graph: Graph
    pipeline: Pipeline
    inputs: Sequence[Any] | None = None
    seed: int = 0
    holds_numbers: bool = False

    def attempt(self) -> Failure | None:
        """Run the case, and return its failure, or None on success."""
        watch = _FailedStep()
        hooks: list[Hook] = [watch]
        if self.holds_numbers and self.inputs is not None:
            hooks.append(Numerics(self.inputs, self.seed))
        try:
            Runner(hooks).run(self.graph, self.pipeline)
        except Exception as error:
            return Failure.of(error, watch.step)
        return None


@define(eq=False)
class _FailedStep(Hook):
    step: Step | None = None

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        self.step = step


def _place(traceback: TracebackType | None) -> str:
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    return f"{frame.f_globals.get('__name__', '')}:{frame.f_code.co_qualname}"

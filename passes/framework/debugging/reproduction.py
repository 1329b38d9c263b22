"""Failures as something one can have again: a graph, a pipeline, inputs, and what went wrong."""

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
    """What went wrong in a run, such that two failures can be told apart.

    Attributes:
        error: class of what left the run.
        cause: class of the exception that left the pass, where `error` wraps one.
        pass_name: the pass whose step failed.
        place: module and function that raised.
        is_infinite: for drift: the outputs could not be compared at all.
        message: the whole text; it does not tell failures apart.
    """

    error: str
    cause: str = ""
    pass_name: str = ""
    place: str = ""
    is_infinite: bool = False
    message: str = field(default="", eq=False)

    @classmethod
    def of(cls, error: BaseException, step: Step | None) -> Failure:
        """The failure that `error`, raised at `step`, is."""
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
        """True when only running the graph shows it: its numbers are wrong, or it cannot run."""
        return self.error in (NumericDrift.__name__, InterpreterError.__name__)

    @classmethod
    def of_check(cls, command: str, step: Step | None) -> Failure:
        """Nothing is raised, but the command `command` finds the result bad."""
        name = "" if step is None else step.pass_.name
        return cls(_CHECK, pass_name=name, message=f"the check {command!r} finds the result bad")

    @property
    def is_check(self) -> bool:
        """True when only a command finds anything wrong."""
        return self.error == _CHECK

    def is_like(self, other: Failure) -> bool:
        """True for the same kind of failure of the same pass, wherever in the code it was raised."""
        return (self.error, self.cause, self.pass_name) == (other.error, other.cause, other.pass_name)

    def __str__(self) -> str:
        cause = f" ({self.cause})" if self.cause else ""
        return f"{self.error}{cause} in {self.pass_name or 'no step'}"


@frozen(eq=False)
class Case:
    """Something to run that may fail.

    Attributes:
        graph: where the run starts; it stays as it is.
        pipeline: what is run.
        inputs: flat inputs of the graph; None where there are none.
        seed: for random ops.
        holds_numbers: whether every step is held to its pass's effect, which takes inputs.
    """

    graph: Graph
    pipeline: Pipeline
    inputs: Sequence[Any] | None = None
    seed: int = 0
    holds_numbers: bool = False

    def attempt(self) -> Failure | None:
        """Run it; None when all goes well."""
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

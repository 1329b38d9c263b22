"""Verification of a model and of the steps of a pipeline, continuing after failed checks if possible."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from attrs import define, field, frozen

from graphpress.compressor import mode_restored
from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import Execution
from graphpress.ir.verifier import VerificationError
from graphpress.ir.verifier import verify as verify_graph
from graphpress.passes.framework import (
    EXACT,
    Drift,
    FactError,
    Hook,
    NumericDrift,
    PassFailed,
    Pipeline,
    Runner,
    Step,
    StepRecord,
)
from graphpress.passes.framework.hooks import Numerics
from graphpress.passes.framework.numerics import compare, execute
from graphpress.tools.passctl.as_data import drift_data
from graphpress.tools.passctl.models import Subject

_FAILURES = (VerificationError, FactError, NumericDrift, PassFailed)
"""Errors that are violations; any other error concerns the user's request."""


@frozen
class Check:
    """The check of one step, or of the capture of the model."""

    at: str
    edits: int = 0
    drift: tuple[Drift, ...] = ()
    problem: str = ""

    def row(self, with_drift: bool) -> tuple[str, ...]:
        """Return a table row, with the worst drift."""
        worst = max(self.drift, key=lambda drift: (not drift.is_held, drift.error), default=None)
        cells = () if worst is None else (f"{worst.error:.3g}", f"{worst.allowed:.3g}")
        shown = (cells or ("", "")) if with_drift else ()
        return (self.at, str(self.edits or ""), *shown, "FAILS" if self.problem else "ok")


@define(eq=False)
class Verdict:
    """All checks, in run order."""

    checks: list[Check] = field(factory=list)

    @property
    def problems(self) -> list[str]:
        """Return the violations."""
        return [check.problem for check in self.checks if check.problem]

    @property
    def ok(self) -> bool:
        """True if there are no violations."""
        return not self.problems

    def data(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        checks = [
            {
                "step": check.at,
                "ok": not check.problem,
                "edits": check.edits,
                "drift": [drift_data(drift) for drift in check.drift],
                "problem": check.problem or None,
            }
            for check in self.checks
        ]
        return {"ok": self.ok, "checks": checks}


def check(subject: Subject, pipeline: Pipeline | None, numerics: bool) -> Verdict:
    """Check the graph of `subject`, then the result of every step of `pipeline`.

    Excessive drift is recorded and the run continues; an invalid graph or a missing fact ends it.

    Args:
        subject: the model.
        pipeline: the pipeline to run, if any.
        numerics: also compare the graph with the model, and every result with the graph before.

    Raises:
        GraphpressError: for requests that cannot be fulfilled.
    """
    verdict = Verdict()
    graph = subject.graph()
    verdict.checks.append(_capture(subject, graph, numerics))
    if pipeline is None or not verdict.ok:
        return verdict
    watch = _StepRecorder(verdict)
    drift = [_CollectedNumerics(subject.flat_inputs())] if numerics else []
    try:
        Runner([watch, *drift]).run(graph, pipeline, in_place=True)
    except _FAILURES as error:
        verdict.checks.append(Check(watch.step, problem=_text(error)))
    return verdict


@define(eq=False)
class _StepRecorder(Hook):
    """Outermost hook that records every step after the checks of all other hooks."""

    verdict: Verdict
    step: str = ""

    def before(self, step: Step, graph: Graph) -> None:
        self.step = step.label

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        problem = ""
        if any(not drift.is_held for drift in record.drift):
            worst = max(record.drift, key=lambda drift: (not drift.is_held, drift.error))
            problem = (
                f"step {step.label!r} is {step.pass_.effect}, but moved output {worst.output!r} by {worst.error:.6g}, "
                f"{worst.allowed:.6g} allowed"
            )
        self.verdict.checks.append(Check(step.label, record.edits, record.drift, problem))


class _CollectedNumerics(Numerics):
    """Records the drift, whether it is within the bounds or not."""

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        try:
            super().after(step, graph, record)
        except NumericDrift:
            assert record.drift


def _capture(subject: Subject, graph: Graph, numerics: bool) -> Check:
    try:
        verify_graph(graph)
    except VerificationError as error:
        return Check("captured", problem=_text(error))
    if not numerics:
        return Check("captured")
    drift = compare(_reference(subject), _without_mutations(execute(graph, subject.flat_inputs())), EXACT)
    moved = [each for each in drift if not each.is_held]
    problem = ""
    if moved:
        problem = f"output {moved[0].output} of the graph differs from the model in {moved[0].error:g} elements"
    return Check("captured", drift=drift, problem=problem)


def _reference(subject: Subject) -> Execution:
    """Run the model itself, in eval mode and without changing its buffers."""
    module = subject.module()
    state = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with mode_restored(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
            for each in module.modules():
                each.training = False
            torch.manual_seed(0)
            copies = pytree.tree_map_only(torch.Tensor, torch.clone, subject.example_inputs)
            return Execution(pytree.tree_leaves(module(*copies)), {})
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise GraphpressError(f"{subject.name} does not run on its inputs: {type(error).__name__}: {reason}") from error
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(state[name])


def _without_mutations(execution: Execution) -> Execution:
    return Execution(execution.outputs, {})


def _text(error: BaseException) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", ())])

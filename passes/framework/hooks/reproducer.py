"""The hook that keeps what a failing step takes to fail again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from traceback import format_exception
from typing import Any

from attrs import define, field

from graphpress.ir.graph import Graph
from graphpress.passes.framework.errors import BundleError
from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.steps import Step


@define(eq=False)
class ReproducerOnFailure(Hook):
    """When a step fails, write a reproducer: the graph it started from, its pass, inputs, versions, the error.

    ``passctl repro FOLDER`` replays it, ``passctl reduce FOLDER`` makes it small. Put it before the hooks whose
    complaints it is to catch, such as `Numerics`. The graph is copied before every step; its tensors are not.

    Attributes:
        folder: where to; a reproducer that is there is replaced.
        inputs: flat inputs of the graph. `Numerics` failures take them to happen again.
        seed: for random ops, as `Numerics` has it.
        is_written: True once a step failed and its reproducer is there.
    """

    folder: str | os.PathLike[str]
    inputs: Sequence[Any] | None = None
    seed: int = 0
    is_written: bool = field(default=False, init=False)
    _before: Graph | None = field(default=None, init=False)
    _earlier: list[str] = field(factory=list, init=False)

    def before(self, step: Step, graph: Graph) -> None:
        """Copy the graph, unless nothing changed since the last copy."""
        if self._before is None:
            self._before = graph.clone()

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Forget the copy when it is old."""
        self._earlier.append(step.label)
        if record.edits or step.index == step.total - 1:
            self._before = None

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Write the reproducer, and note on `error` how to replay it.

        Raises:
            BundleError: when it cannot be written.
        """
        if not isinstance(error, Exception) or self._before is None:
            return
        # Not before: bundles need the runner, which needs hooks.
        from graphpress.passes.framework.bundles import Bundle
        from graphpress.passes.framework.pipeline import Pipeline
        from graphpress.passes.framework.reproduction import Case, Failure

        case = Case(self._before, Pipeline(step.pass_, assume=step.pass_.needs), self.inputs, self.seed)
        failure = Failure.of(error, step)
        if failure.takes_inputs and self.inputs is None:
            raise BundleError(
                f"a {failure.error} takes inputs to happen again: give ReproducerOnFailure those that Numerics has"
            )
        report = "".join(format_exception(error))
        Bundle.of(case, failure, earlier=tuple(self._earlier), report=report).save(self.folder)
        self.is_written = True
        error.add_note(f"reproducer written; replay it with: passctl repro {os.fspath(self.folder)}")

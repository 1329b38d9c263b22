"""The interface of hooks."""

from __future__ import annotations

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.steps import Step


class Hook:
    """Something that watches the steps of a run. Override what you need.

    Hooks nest: `before` is called in the order of the runner's hooks, `after` and `failed` in reverse. Each hook whose
    `before` returned gets exactly one of the two, whatever happens in between.
    """

    def allow(self, step: Step, graph: Graph) -> bool:
        """Whether the step may run. It is skipped when any hook says no; then nothing else is called."""
        return True

    def before(self, step: Step, graph: Graph) -> None:
        """The step is about to run."""

    def rewriting(self, step: Step, rewriter: Rewriter) -> None:
        """The pass is about to get `rewriter`, whose rewrites may be limited here. Called after every `before`."""

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """The step ran; `record` may be added to."""

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """The step, or the `before` or `after` of a hook nested inside this one, raised `error`."""

"""The hook that checks every step's result."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph
from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.steps import Step


@frozen
class Verify(Hook):
    """Run the verifier on the result of every step that edited more than annotations, which it does not look at.

    The runner adds it by itself.
    """

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Verify `graph`.

        Raises:
            VerificationError: naming the node at fault, its module path and source line.
        """
        from graphpress.ir.verifier import verify

        if record.changes_structure:
            verify(graph)

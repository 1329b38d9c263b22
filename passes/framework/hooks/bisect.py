"""The hook that runs only a part of a pipeline."""

from __future__ import annotations

from attrs import define, field
from attrs.validators import ge, instance_of, optional

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.rewrites import Rewrite
from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.steps import Step


@define(eq=False)
class Bisect(Hook):
    """Run only the first `limit` steps, and of the last of them only the first `rewrites` rewrites.

    What is a rewrite says `graphpress.ir.rewrites`. A step that is cut off leaves a valid graph; the facts its pass
    gives are not checked. One such hook is for one run.

    Attributes:
        limit: how many steps run; each round of a repeat counts.
        rewrites: how many rewrites of the last of these steps are made; None for all.
        last: the last rewrite of that step, once it ran.
    """

    limit: int = field(validator=[instance_of(int), ge(0)])
    rewrites: int | None = field(default=None, validator=optional([instance_of(int), ge(0)]))
    _ran: int = field(default=0, init=False)
    _rewriter: Rewriter | None = field(default=None, init=False)

    @property
    def last(self) -> Rewrite | None:
        """The last rewrite of the last step so far."""
        return None if self._rewriter is None else self._rewriter.rewrites.last

    def allow(self, step: Step, graph: Graph) -> bool:
        """Whether fewer than `limit` steps ran."""
        return self._ran < self.limit

    def before(self, step: Step, graph: Graph) -> None:
        """Count the step."""
        self._ran += 1

    def rewriting(self, step: Step, rewriter: Rewriter) -> None:
        """Limit the rewrites of the last step."""
        self._rewriter = rewriter
        if self._ran == self.limit:
            rewriter.rewrites.limit = self.rewrites

"""The hook that adds up what passes counted."""

from __future__ import annotations

from attrs import define, field

from graphpress.ir.graph import Graph
from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.steps import Step


@define(eq=False)
class Statistics(Hook):
    """Adds up edits and counters by step, over all rounds.

    Attributes:
        by_step: for each address, the counters of the pass by name, and ``nodes added``, ``nodes removed``, ``edits``
            and ``constants`` as the rewriter counted them; zeros left out.
    """

    by_step: dict[str, dict[str, int]] = field(factory=dict, init=False)

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Add what the step did."""
        counters = self.by_step.setdefault(step.address, {})
        edits = {
            "nodes added": record.added,
            "nodes removed": record.removed,
            "edits": record.changed,
            "constants": record.constants,
        }
        for source in (edits, record.statistics):
            for name, amount in source.items():
                if amount:
                    counters[name] = counters.get(name, 0) + amount

    @property
    def totals(self) -> dict[str, int]:
        """The counters of all steps together."""
        totals: dict[str, int] = {}
        for counters in self.by_step.values():
            for name, amount in counters.items():
                totals[name] = totals.get(name, 0) + amount
        return totals

    def __str__(self) -> str:
        """One line per step that did something."""
        lines = []
        for address, counters in self.by_step.items():
            if counters:
                lines.append(f"{address}: " + ", ".join(f"{name} {amount}" for name, amount in counters.items()))
        return "\n".join(lines)

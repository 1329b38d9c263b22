"""What a pass tells about its run beside the edits it makes."""

from __future__ import annotations

from attrs import define, field, frozen

from graphpress.ir.graph import Node
from graphpress.ir.location import UNKNOWN, Location


@frozen
class Report:
    """A remark of a pass: what it did or did not do, at which node, and why.

    Name, op and location are kept, not the node, which a later pass may erase.
    """

    reason: str
    node_name: str | None = None
    op_name: str | None = None
    location: Location = UNKNOWN

    def __str__(self) -> str:
        return self.reason if self.node_name is None else f"{self.node_name} ({self.location}): {self.reason}"


@define(eq=False)
class PassContext:
    """Handed to `Pass.run`; one per step.

    Attributes:
        address: the step being run, such as ``dce#2``.
        statistics: counters by name.
        reports: remarks, in order.
        node: the node the pass is at. Set it while walking the graph, and an exception will name the node; what is
            edited meanwhile is one rewrite, so that a bisection never stops between edits that belong together.
    """

    address: str = ""
    statistics: dict[str, int] = field(factory=dict)
    reports: list[Report] = field(factory=list)
    node: Node | None = None

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to the counter `name`."""
        self.statistics[name] = self.statistics.get(name, 0) + amount

    def report(self, node: Node | None, reason: str) -> None:
        """Remark `reason` about `node`, or about the whole graph."""
        if node is None:
            self.reports.append(Report(reason))
        else:
            self.reports.append(Report(reason, node.name, node.op.name, node.location))

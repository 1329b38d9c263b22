"""Facts about a graph, which passes give, need and break."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import field, frozen

from graphpress.ir.graph import Graph, Node
from graphpress.passes.framework.errors import FactError


@frozen
class Violation:
    """A node at which a fact does not hold, and the reason."""

    reason: str
    node: Node | None = None

    def __str__(self) -> str:
        if self.node is None:
            return self.reason
        return f"{self.node.name} ({self.node.op.name}, {self.node.location}): {self.reason}"


@frozen
class Fact:
    """A property of a graph that holds from the pass that gives it to a pass that breaks it.

    Facts are compared by name.

    Attributes:
        name: in kebab case, such as ``batch-norm-folded``.
        description: a sentence that completes "the graph is such that ...".
        checker: yields a `Violation` for every place where the fact does not hold. It runs on the result of every pass
            that gives the fact.
    """

    name: str
    description: str = field(default="", eq=False)
    checker: Callable[[Graph], Iterable[Violation]] | None = field(default=None, eq=False, repr=False)

    def violations(self, graph: Graph) -> list[Violation]:
        """Return all violations in `graph`; none for a fact without a checker."""
        return [] if self.checker is None else list(self.checker(graph))

    def check(self, graph: Graph, given_by: str) -> None:
        """Raise if the fact does not hold for `graph`, the result of the step `given_by`.

        Raises:
            FactError: naming the step, the fact, and the first violations.
        """
        violations = self.violations(graph)
        if violations:
            shown = "".join(f"\n  {violation}" for violation in violations[:3])
            more = f"\n  and {len(violations) - 3} more" if len(violations) > 3 else ""
            promise = f" ({self.description})" if self.description else ""
            raise FactError(f"{given_by} gives {self.name!r}{promise}, but its result does not have it:{shown}{more}")

    def __str__(self) -> str:
        return self.name


def fact_set(facts: Fact | Iterable[Fact]) -> frozenset[Fact]:
    """Return one fact or several as a set.

    Raises:
        FactError: if an element is not a fact.
    """
    result = frozenset([facts] if isinstance(facts, Fact) else facts)
    for fact in result:
        if not isinstance(fact, Fact):
            raise FactError(f"{fact!r} is not a Fact")
    return result


def describe_facts(facts: Iterable[Fact]) -> str:
    """Return the sorted names, for messages."""
    return ", ".join(sorted(repr(fact.name) for fact in facts))

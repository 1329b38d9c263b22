"""Whether the facts each step needs are there when it runs."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field

from graphpress.passes.framework.errors import PipelineError
from graphpress.passes.framework.facts import Fact, describe_facts
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.steps import Repeat, StepLike, places


def check_order(steps: tuple[StepLike, ...], assumed: frozenset[Fact]) -> frozenset[Fact]:
    """The facts that hold after `steps`, when `assumed` hold before.

    Raises:
        PipelineError: for the first step that needs a fact which does not hold there; the message says which step
            broke it, or which pass would give it.
    """
    run = _Run({place.path: place.address for place in places(steps)}, steps, set(assumed))
    run.walk(steps, ())
    return frozenset(run.facts)


@define
class _Run:
    """Goes through the steps as the runner would; a repeat's second round sees what its first one broke."""

    addresses: dict[tuple[int, ...], str]
    all_steps: tuple[StepLike, ...]
    facts: set[Fact]
    broken_by: dict[Fact, str] = field(factory=dict)

    def walk(self, steps: tuple[StepLike, ...], path: tuple[int, ...]) -> None:
        for index, step in enumerate(steps):
            here = (*path, index)
            if isinstance(step, Repeat):
                for _ in range(min(step.max, 2)):
                    self.walk(step.steps, here)
            else:
                self._visit(step, self.addresses[here])

    def _visit(self, step: Pass, address: str) -> None:
        missing = step.needs - self.facts
        if missing:
            self._complain(address, missing)
        for fact in step.breaks & self.facts:
            self.broken_by[fact] = address
        self.facts -= step.breaks
        self.facts |= step.gives

    def _complain(self, address: str, missing: Iterable[Fact]) -> None:
        fact = min(missing, key=lambda fact: fact.name)
        meaning = f" ({fact.description})" if fact.description else ""
        if fact in self.broken_by:
            hint = f"{self.broken_by[fact]} breaks it before"
        else:
            all_places = places(self.all_steps)
            later = [p.address for p in all_places if isinstance(p.step, Pass) and fact in p.step.gives]
            hint = f"{later[0]} gives it, but only later" if later else _givers(fact)
        have = describe_facts(self.facts)
        raise PipelineError(
            f"step {address!r} needs the fact {fact.name!r}{meaning}, which does not hold there: {hint}"
            + (f"; what holds is {have}" if have else "")
        )


def _givers(fact: Fact) -> str:
    from graphpress.passes.framework.registry import registered_passes

    givers = [cls.name for cls in registered_passes() if not isinstance(cls.gives, property) and fact in cls.gives]
    if not givers:
        return "no registered pass gives it; if it holds of the graph already, say so with `assume`"
    return f"put {' or '.join(map(repr, givers))} before it"

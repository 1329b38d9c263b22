"""Steps of pipelines, their addresses, and the order that their facts require."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attrs import define, field, frozen

from graphpress.ir.errors import suggestion
from graphpress.passes.framework.errors import PipelineError
from graphpress.passes.framework.facts import Fact, describe_facts
from graphpress.passes.framework.passes import Pass


@frozen(init=False)
class Repeat:
    """Runs `steps` until a round changes nothing, or `max` rounds were run."""

    steps: tuple[StepLike, ...]
    max: int = field(default=8)

    def __init__(self, *steps: Iterable[StepLike] | StepLike, max: int = 8):
        if not isinstance(max, int) or isinstance(max, bool) or max < 1:
            raise PipelineError(f"repeat needs at least one round: `max` must be a positive integer, not {max!r}")
        self.__attrs_init__(flatten(steps), max)
        if not self.steps:
            raise PipelineError("repeat needs at least one step")


StepLike = Pass | Repeat


@frozen
class Step:
    """One pass at one position of a pipeline.

    Attributes:
        address: ``name#n``, the n-th step of that name in textual order, from 1.
        pass_: the pass.
        parents: addresses of the enclosing repeats, outermost first.
        index: the position among all steps of the pipeline, from 0.
        total: the number of steps of the pipeline.
        rounds: while running, the round of each enclosing repeat, from 1.
    """

    address: str
    pass_: Pass
    parents: tuple[str, ...] = ()
    index: int = 0
    total: int = 1
    rounds: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The address with the rounds of the enclosing repeats: ``dce#2@3``."""
        return self.address + "".join(f"@{number}" for number in self.rounds)


@frozen
class Place:
    """A step or repeat with its address; `path` has the index at each depth."""

    address: str
    step: StepLike
    path: tuple[int, ...]
    parents: tuple[str, ...]


def flatten(steps: Iterable[object]) -> tuple[StepLike, ...]:
    """Return steps as one tuple; a nested pipeline contributes its own steps.

    Raises:
        PipelineError: if an item is not a pass, repeat or pipeline.
    """
    flat: list[StepLike] = []
    for step in steps:
        if isinstance(step, Pass | Repeat):
            flat.append(step)
        elif isinstance(inner := getattr(step, "steps", None), tuple):
            flat.extend(inner)
        elif isinstance(step, type) and issubclass(step, Pass):
            raise PipelineError(f"{step.__name__} is a pass class; a step is an instance: {step.__name__}(...)")
        else:
            raise PipelineError(f"{step!r} is not a pass, a Repeat or a Pipeline")
    return tuple(flat)


def places(steps: tuple[StepLike, ...]) -> Iterator[Place]:
    """Yield every step in textual order, and every repeat before its steps."""
    counts: dict[str, int] = {}

    def walk(steps: tuple[StepLike, ...], path: tuple[int, ...], parents: tuple[str, ...]) -> Iterator[Place]:
        for index, step in enumerate(steps):
            name = step.name if isinstance(step, Pass) else "repeat"
            counts[name] = counts.get(name, 0) + 1
            address = f"{name}#{counts[name]}"
            yield Place(address, step, (*path, index), parents)
            if isinstance(step, Repeat):
                yield from walk(step.steps, (*path, index), (*parents, address))

    return walk(steps, (), ())


def find_place(steps: tuple[StepLike, ...], address: str) -> Place:
    """Return the step or repeat at `address`; a bare name is accepted if it is unique.

    Raises:
        PipelineError: if no step or several steps match; the message lists the candidates.
    """
    known = {place.address: place for place in places(steps)}
    if address in known:
        return known[address]
    same_name = [place for place in known.values() if place.address.rpartition("#")[0] == address]
    if len(same_name) == 1:
        return same_name[0]
    if same_name:
        raise PipelineError(f"{address!r} is ambiguous: say {' or '.join(place.address for place in same_name)}")
    near = suggestion(address, known)
    raise PipelineError(f"no step {address!r}{near or '; the steps are ' + (', '.join(known) or 'none')}")


def edit_at(
    steps: tuple[StepLike, ...], path: tuple[int, ...], edit: Callable[[StepLike], tuple[StepLike, ...]]
) -> tuple[StepLike, ...]:
    """Return `steps` with the one at `path` replaced by the result of `edit`; empty repeats are dropped."""
    index, rest = path[0], path[1:]
    step = steps[index]
    if rest:
        assert isinstance(step, Repeat)
        inner = edit_at(step.steps, rest, edit)
        new: tuple[StepLike, ...] = (Repeat(*inner, max=step.max),) if inner else ()
    else:
        new = edit(step)
    return steps[:index] + new + steps[index + 1 :]


def check_order(steps: tuple[StepLike, ...], assumed: frozenset[Fact]) -> frozenset[Fact]:
    """Return the facts that hold after `steps`, if `assumed` hold before.

    Raises:
        PipelineError: for the first step that needs a fact which does not hold there; the message names the step that
            broke it, or a pass that gives it.
    """
    run = _Run({place.path: place.address for place in places(steps)}, steps, set(assumed))
    run.walk(steps, ())
    return frozenset(run.facts)


@frozen
class _Effect:
    """What some steps in a row need, break and give; False in `can_run` if one breaks what a later one needs."""

    needs: frozenset[Fact] = frozenset()
    breaks: frozenset[Fact] = frozenset()
    gives: frozenset[Fact] = frozenset()
    can_run: bool = True

    def then(self, other: _Effect) -> _Effect:
        can_run = self.can_run and other.can_run and other.needs.isdisjoint(self.breaks - self.gives)
        needs = self.needs | (other.needs - self.gives)
        return _Effect(needs, self.breaks | other.breaks, (self.gives - other.breaks) | other.gives, can_run)


@define
class _Run:
    """Simulates a run over the facts; a repeat's second round sees the effects of its first.

    The second round is walked only if it fails, since walking it always costs two to the power of the nesting.
    """

    addresses: dict[tuple[int, ...], str]
    all_steps: tuple[StepLike, ...]
    facts: set[Fact]
    broken_by: dict[Fact, str] = field(factory=dict)
    effects: dict[int, _Effect] = field(factory=dict)  # by the id of a repeat

    def walk(self, steps: tuple[StepLike, ...], path: tuple[int, ...]) -> None:
        for index, step in enumerate(steps):
            here = (*path, index)
            if isinstance(step, Repeat):
                self.walk(step.steps, here)
                effect = self._effect(step)
                if step.max > 1 and not (effect.can_run and effect.needs <= self.facts):
                    self.walk(step.steps, here)
            else:
                self._visit(step, self.addresses[here])

    def _effect(self, repeat: Repeat) -> _Effect:
        """Return the effect of one round of `repeat`."""
        if id(repeat) not in self.effects:
            whole = _Effect()
            for step in repeat.steps:
                if isinstance(step, Pass):
                    whole = whole.then(_Effect(frozenset(step.needs), frozenset(step.breaks), frozenset(step.gives)))
                else:
                    inner = self._effect(step)
                    whole = whole.then(inner if step.max == 1 else inner.then(inner))
            self.effects[id(repeat)] = whole
        return self.effects[id(repeat)]

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
        return "no registered pass gives it; if it already holds for the graph, pass it as `assume`"
    return f"put {' or '.join(map(repr, givers))} before it"

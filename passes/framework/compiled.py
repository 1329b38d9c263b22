"""Patterns compiled to functions that decide a match without a search.

Each part of a pattern becomes a function of its subject. A choice (the operand order of a commutative op, an
alternative of a `OneOf`) is final if nothing that follows depends on it: the part that holds it shares no capture and
no op with the rest, and the pattern does not limit who reads what it matches. A choice at the root is tried to the end.
A part that failed at a node is not tried there again, which makes nested commutative ops linear in their depth.
Patterns with other choices are left to the search in `matcher`, which also explains why a pattern does not match.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from attrs import define, field, frozen

from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import OpDef
from graphpress.passes.framework import patterns as p
from graphpress.passes.framework.match import (
    ABSENT,
    Match,
    Path,
    constant_complaint,
    fits_literal,
    is_commutative,
    is_python_value,
    parameter,
    type_complaint,
)
from graphpress.passes.framework.matcher import match_pattern, operand_orders

Misfits: TypeAlias = set[tuple[int, int]]
"""Parts of patterns and nodes that do not fit, by identity; valid until the graph is edited."""


@define(eq=False)
class CompiledPattern:
    """A pattern prepared for `find`.

    Attributes:
        needs_search: whether a choice was met that is not final.
    """

    pattern: p.Pattern
    needs_search: bool = field(default=False, init=False)
    _names: tuple[str, ...] = field(init=False)
    _attempts: tuple[_Body, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        compiler = _Compiler.of(self.pattern)
        self._names = tuple(self.pattern.names())
        self._attempts = tuple(_Body(op, compiler, True, (*op.tests, *tests)) for op, tests in _roots(self.pattern))

    def find(self, node: Node, misfits: Misfits) -> Match | None:
        """Match the pattern with its root at `node`; None if it does not match.

        `misfits` holds what earlier calls found not to fit, and is extended.
        """
        if not self.needs_search:
            try:
                return self._decide(node, misfits)
            except _NeedsSearch:
                self.needs_search = True
        found = match_pattern(self.pattern, node)
        return found if isinstance(found, Match) else None

    def _decide(self, node: Node, misfits: Misfits) -> Match | None:
        for attempt in self._attempts:
            for order in attempt.orders(node):
                state = _State(misfits)
                if attempt.fits(node, order, (None, node.op.short_name), state) and state.owns_all(node):
                    captures = dict.fromkeys(self._names) | state.captures
                    return Match(node, tuple(state.nodes), captures, state.paths)
        return None


class _NeedsSearch(Exception):
    """The pattern has a choice on which what follows may depend."""


@define(eq=False)
class _State:
    misfits: Misfits
    captures: dict[str, Any] = field(factory=dict)
    paths: dict[str, Path] = field(factory=dict)
    nodes: list[Node] = field(factory=list)
    bound: dict[int, Node] = field(factory=dict)  # the node of each `Op` object that occurs several times
    owned: list[Node | Value] = field(factory=list)  # what only the match may read

    def mark(self) -> tuple[int, int, int, int]:
        """What to `undo` to; nothing owned is undone, as no pattern with a choice below its root has that."""
        return len(self.captures), len(self.paths), len(self.nodes), len(self.bound)

    def undo(self, mark: tuple[int, int, int, int]) -> None:
        """Drop what was added since `mark`."""
        captures, paths, nodes, bound = mark
        _shorten(self.captures, captures)
        _shorten(self.paths, paths)
        _shorten(self.bound, bound)
        del self.nodes[nodes:]

    def capture(self, name: str, subject: Any, path: Path) -> bool:
        """Capture `subject`, or compare it with what has that name."""
        captures = self.captures
        if name in captures:
            known = captures[name]
            return known is subject or (not isinstance(subject, Value | Node) and bool(known == subject))
        captures[name], self.paths[name] = subject, path
        return True

    def owns_all(self, root: Node) -> bool:
        """True if only matched nodes read what is owned."""
        if not self.owned:
            return True
        inside = set(map(id, self.nodes))
        for owned in self.owned:
            if owned is root:
                continue
            for value in owned.results if isinstance(owned, Node) else (owned,):
                if any(id(use.user) not in inside for use in value.uses):
                    return False
        return True


_Step: TypeAlias = Callable[[Any, Path, _State], bool]


@frozen(eq=False)
class _Order:
    """The steps of the parameters, by name; `names` is None if others may be there."""

    steps: tuple[tuple[str, _Step], ...]
    names: frozenset[str] | None


@frozen(eq=False)
class _Body:
    """An `Op` pattern at a node that computes its subject.

    Attributes:
        op: the pattern.
        compiler: compiles the parameters when a node of another op is met.
        is_final: whether the first order that fits may be kept.
        tests: predicates on the node.
        is_repeated: whether the pattern has it several times, for the same node.
    """

    op: p.Op
    compiler: _Compiler
    is_final: bool
    tests: tuple[p.Test, ...]
    is_repeated: bool = field(init=False)
    _plans: dict[OpDef, tuple[_Order, ...]] = field(factory=dict)

    @is_repeated.default
    def _is_repeated(self) -> bool:
        return self.compiler.uses[id(self.op)] > 1

    def orders(self, node: Node) -> tuple[_Order, ...]:
        """The parameters in each order to try; none if the op of `node` does not fit."""
        orders = self._plans.get(node.op)
        if orders is None:
            orders = self._plans[node.op] = self._orders_of(node.op)
        if len(orders) > 1 and not is_commutative(node):
            return orders[:1]
        return orders

    def fits(self, node: Node, order: _Order, path: Path, state: _State) -> bool:
        """Match the parameters of `node` in `order`, then capture and test the node."""
        op, operands = self.op, node.operands
        if self.is_repeated:
            state.bound[id(op)] = node
        if order.names is not None and not operands.keys() <= order.names:
            return False
        for name, step in order.steps:
            if not step(operands[name] if name in operands else parameter(node, name), (path, name), state):
                return False
        if node not in state.nodes:
            state.nodes.append(node)
        if op.single_use:
            state.owned.append(node)
        return (op.name is None or state.capture(op.name, node, path)) and _passes(self.tests, node)

    def _orders_of(self, op: OpDef) -> tuple[_Order, ...]:
        orders = operand_orders(self.op, op) if self.op.accepts(op) else None
        if orders is None:
            return ()
        if orders[1] is not None and not self.is_final:
            raise _NeedsSearch
        compiled = self.compiler.step
        return tuple(
            _Order(
                tuple((name, compiled(part)) for name, part in order.items()),
                None if self.op.is_open else frozenset(order),
            )
            for order in orders
            if order is not None
        )


@frozen(eq=False)
class _Compiler:
    """Compiles the parts of one pattern, each once.

    Attributes:
        pattern: the whole pattern.
        uses: how often each capture and each op occurs in it.
        is_limiting: whether it limits who reads what it matches.
    """

    pattern: p.Pattern
    uses: Counter[str | int]
    is_limiting: bool
    _steps: dict[int, _Step] = field(factory=dict)

    @classmethod
    def of(cls, pattern: p.Pattern) -> _Compiler:
        """Count what occurs in `pattern`."""
        roots = {id(op) for op, _ in _roots(pattern)}
        is_limiting = any(
            (isinstance(part, p.Op) and part.single_use and id(part) not in roots)
            or (isinstance(part, p.Constant) and part.unshared)
            for part in _parts(pattern)
        )
        return cls(pattern, _uses(pattern), is_limiting)

    def is_closed(self, part: p.Pattern) -> bool:
        """True if `part` shares no capture and no op with the rest of the pattern."""
        return all(self.uses[name] == count for name, count in _uses(part).items())

    def is_final(self, part: p.Pattern) -> bool:
        """True if the first way to match `part` may be kept."""
        return not self.is_limiting and self.is_closed(part)

    def step(self, pattern: p.Pattern) -> _Step:
        """Return the function that matches `pattern`."""
        step = self._steps.get(id(pattern))
        if step is None:
            step = self._steps[id(pattern)] = self._compile(pattern)
        return step

    def _compile(self, pattern: p.Pattern) -> _Step:
        match pattern:
            case p.Any():
                return _any_step(pattern)
            case p.Op():
                return self._op_step(pattern, 0)
            case p.Result():
                return self._tested(self._op_step(pattern.op, pattern.index), pattern.tests)
            case p.Attr():
                return _attribute_step(pattern)
            case p.Literal(value=value):
                return self._tested(lambda subject, path, state: fits_literal(value, subject), pattern.tests)
            case p.Optional():
                return self._optional_step(pattern)
            case p.OneOf():
                return self._choice_step(pattern)
            case p.Items():
                return self._tested(self._items_step(pattern), pattern.tests)
        raise _NeedsSearch

    def _op_step(self, op: p.Op, index: int) -> _Step:
        body, is_memoized = _Body(op, self, self.is_final(op), op.tests), self.is_closed(op) and op.depth() > 1

        def step(subject: Any, path: Path, state: _State) -> bool:
            node = subject.producer if isinstance(subject, Value) else None
            if not isinstance(node, Node) or subject.index != index:
                return False
            if body.is_repeated and id(op) in state.bound:
                return state.bound[id(op)] is node
            orders = body.orders(node)
            if not orders:
                return False
            if is_memoized and (id(op), id(node)) in state.misfits:
                return False
            if len(orders) == 1:
                if body.fits(node, orders[0], path, state):
                    return True
            else:
                mark = state.mark()
                for order in orders:
                    if body.fits(node, order, path, state):
                        return True
                    state.undo(mark)
            if is_memoized:
                state.misfits.add((id(op), id(node)))
            return False

        return step

    def _optional_step(self, pattern: p.Optional) -> _Step:
        inner, names = self._tested(self.step(pattern.pattern), pattern.tests), tuple(pattern.names())

        def step(subject: Any, path: Path, state: _State) -> bool:
            if subject is not None and subject is not ABSENT:
                return inner(subject, path, state)
            for name in names:
                state.captures.setdefault(name)
            return True

        return step

    def _choice_step(self, pattern: p.OneOf) -> _Step:
        if not self.is_final(pattern):
            raise _NeedsSearch
        steps = [self._tested(self.step(one), pattern.tests) for one in pattern.alternatives]

        def step(subject: Any, path: Path, state: _State) -> bool:
            mark = state.mark()
            for one in steps:
                if one(subject, path, state):
                    return True
                state.undo(mark)
            return False

        return step

    def _items_step(self, pattern: p.Items) -> _Step:
        steps = [(str(index), self.step(item)) for index, item in enumerate(pattern.items)]
        is_open = pattern.is_open

        def step(subject: Any, path: Path, state: _State) -> bool:
            if not isinstance(subject, tuple) or len(subject) < len(steps):
                return False
            if len(subject) > len(steps) and not is_open:
                return False
            return all(item(found, (path, name), state) for (name, item), found in zip(steps, subject, strict=False))

        return step

    @staticmethod
    def _tested(step: _Step, tests: tuple[p.Test, ...]) -> _Step:
        if not tests:
            return step
        return lambda subject, path, state: step(subject, path, state) and _passes(tests, subject)


def _any_step(pattern: p.Any) -> _Step:
    name, tests = pattern.name, pattern.tests
    is_free = not pattern.dtype and pattern.rank is None and pattern.shape is None
    constant = pattern if isinstance(pattern, p.Constant) else None

    def step(subject: Any, path: Path, state: _State) -> bool:
        if not isinstance(subject, Value):
            return False
        if constant is not None:
            if constant_complaint(constant, subject) is not None:
                return False
            if constant.unshared:
                state.owned.append(subject)
        if not is_free and type_complaint(pattern, subject.type) is not None:
            return False
        return (name is None or state.capture(name, subject, path)) and _passes(tests, subject)

    return step


def _attribute_step(pattern: p.Attr) -> _Step:
    name, tests = pattern.name, pattern.tests

    def step(subject: Any, path: Path, state: _State) -> bool:
        if not is_python_value(subject):
            return False
        return (name is None or state.capture(name, subject, path)) and _passes(tests, subject)

    return step


def _shorten(table: dict[Any, Any], length: int) -> None:
    while len(table) > length:
        table.popitem()


def _passes(tests: tuple[p.Test, ...], subject: Any) -> bool:
    return not tests or all(test.predicate(subject) for test in tests)


def _roots(pattern: p.Pattern, tests: tuple[p.Test, ...] = ()) -> Iterator[tuple[p.Op, tuple[p.Test, ...]]]:
    """Yield the ops possible at the root of `pattern`, with the tests after those of the op."""
    if isinstance(pattern, p.Op):
        yield pattern, tests
    elif isinstance(pattern, p.OneOf):
        for alternative in pattern.alternatives:
            yield from _roots(alternative, (*pattern.tests, *tests))


def _parts(pattern: p.Pattern) -> Iterator[p.Pattern]:
    yield pattern
    for part in pattern.parts:
        yield from _parts(part)


def _uses(pattern: p.Pattern) -> Counter[str | int]:
    return Counter([*pattern.names(), *(id(op) for op in pattern.inner_ops())])

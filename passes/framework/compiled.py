"""Patterns compiled to functions.

Each part of a pattern becomes a function of its subject. A choice (the operand order of a commutative op, an
alternative of a `OneOf`) is final if nothing that follows depends on it: the part that holds it shares no capture and
no op with the rest, and the pattern does not limit who reads what it matches. The first alternative that fits is then
kept. Other choices are recorded, and an attempt that fails is repeated with the next alternatives, in the order of the
search in `matcher`, which also explains why a pattern does not match.

A part that failed at a node is not tried there again, which makes nested commutative ops linear in their depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from attrs import define, field, frozen

from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import OpDef
from graphpress.passes.framework import patterns as p
from graphpress.passes.framework.attempt import Attempt, Misfits
from graphpress.passes.framework.leaf_steps import Step, any_step, attribute_step, passes
from graphpress.passes.framework.match import (
    ABSENT,
    Match,
    Path,
    fits_literal,
    is_commutative,
    parameter,
)
from graphpress.passes.framework.matcher import match_pattern, operand_orders


@define(eq=False)
class CompiledPattern:
    """A pattern prepared for `find`.

    Attributes:
        needs_search: whether the pattern is left to the search, because what it captures in the items of a list occurs
            elsewhere too.
    """

    pattern: p.Pattern
    needs_search: bool = field(init=False)
    _names: tuple[str, ...] = field(init=False)
    _roots: tuple[_Body, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        compiler = _Compiler.of(self.pattern)
        lists = [part for part in _parts(self.pattern) if isinstance(part, p.Each)]
        self.needs_search = not all(compiler.is_closed(each.pattern) for each in lists)
        self._names = tuple(dict.fromkeys(self.pattern.names()))
        self._roots = tuple(_Body(op, compiler, (*op.tests, *tests), True) for op, tests in _roots(self.pattern))

    def find(self, node: Node, misfits: Misfits) -> Match | None:
        """Match the pattern with its root at `node`; None if it does not match.

        `misfits` holds what earlier calls found not to fit, and is extended.
        """
        if self.needs_search:
            found = match_pattern(self.pattern, node)
            return found if isinstance(found, Match) else None
        for root in self._roots:
            orders = root.plans.get(node.op)
            for order in root.orders(node) if orders is None or len(orders) > 1 else orders:
                attempt = Attempt(misfits)
                is_met = root.fits(node, order, (None, node.op.short_name), attempt)
                if is_met and attempt.owned:
                    is_met = attempt.owns_all()
                if not is_met and attempt.met:  # there were choices
                    attempt = Attempt(misfits)
                    is_met = attempt.settle(partial(_fits_all, root, node, order, attempt))
                if is_met:
                    captures = attempt.captures
                    if len(captures) < len(self._names):
                        captures = dict.fromkeys(self._names) | captures
                    return Match(node, tuple(attempt.nodes), captures, attempt.paths)
        return None


@frozen(eq=False)
class _Order:
    """The steps of the parameters, by name; `names` is None if others may be there, or there are no others."""

    steps: tuple[tuple[str, Step], ...]
    names: frozenset[str] | None


@frozen(eq=False)
class _Body:
    """An `Op` pattern at a node that computes its subject.

    Attributes:
        op: the pattern.
        compiler: compiles the parameters when a node of another op is met.
        tests: predicates on the node.
        is_root: whether it is the root of the pattern, of which everything may be read elsewhere.
        is_repeated: whether the pattern has it several times, for the same node.
        is_owned: whether only matched nodes may read it.
        name: the capture of the node.
        plans: the orders of the parameters of each op met, which `orders` fills.
    """

    op: p.Op
    compiler: _Compiler
    tests: tuple[p.Test, ...]
    is_root: bool = False
    is_repeated: bool = field(init=False)
    is_owned: bool = field(init=False)
    name: str | None = field(init=False)
    plans: dict[OpDef, tuple[_Order, ...]] = field(factory=dict)

    @is_repeated.default
    def _is_repeated(self) -> bool:
        return self.compiler.uses[id(self.op)] > 1

    @is_owned.default
    def _is_owned(self) -> bool:
        return self.op.single_use and not self.is_root

    @name.default
    def _name(self) -> str | None:
        return self.op.name

    def orders(self, node: Node) -> tuple[_Order, ...]:
        """The parameters in each order to try; none if the op of `node` does not fit."""
        orders = self.plans.get(node.op)
        if orders is None:
            orders = self.plans[node.op] = self._orders_of(node.op)
        return orders if len(orders) <= 1 or is_commutative(node) else orders[:1]

    def fits(self, node: Node, order: _Order, path: Path, attempt: Attempt) -> bool:
        """Match the parameters of `node` in `order`, then capture and test the node."""
        operands = node.operands
        if self.is_repeated:
            attempt.bound[id(self.op)] = node
        if order.names is not None and not operands.keys() <= order.names:
            return False
        for name, step in order.steps:
            subject = operands[name] if name in operands else parameter(node, name)
            if not step(subject, (path, name), attempt):
                return False
        attempt.nodes[node] = None
        if self.is_owned:
            attempt.owned += (node,)
        if self.name is not None and not attempt.capture(self.name, node, path):
            return False
        return not self.tests or passes(self.tests, node)

    def _orders_of(self, op: OpDef) -> tuple[_Order, ...]:
        orders = operand_orders(self.op, op) if self.op.accepts(op) else None
        return () if orders is None else tuple(self._order(op, order) for order in orders if order is not None)

    def _order(self, op: OpDef, wanted: dict[str, p.Pattern]) -> _Order:
        steps = tuple((name, self.compiler.step(part)) for name, part in wanted.items())
        has_all = not op.variadic and wanted.keys() >= op.by_name.keys()
        return _Order(steps, None if self.op.is_open or has_all else frozenset(wanted))


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
    _steps: dict[int, Step] = field(factory=dict)

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

    def step(self, pattern: p.Pattern) -> Step:
        """Return the function that matches `pattern`."""
        step = self._steps.get(id(pattern))
        if step is None:
            step = self._steps[id(pattern)] = self._compile(pattern)
        return step

    def _compile(self, pattern: p.Pattern) -> Step:
        match pattern:
            case p.Any():
                return any_step(pattern)
            case p.Op():
                return self._op_step(pattern, 0)
            case p.Result():
                return self._tested(self._op_step(pattern.op, pattern.index), pattern.tests)
            case p.Attr():
                return attribute_step(pattern)
            case p.Literal(value=value):
                return self._tested(lambda subject, path, attempt: fits_literal(value, subject), pattern.tests)
            case p.Optional():
                return self._optional_step(pattern)
            case p.OneOf():
                return self._choice_step(pattern)
            case p.Items():
                return self._tested(self._items_step(pattern), pattern.tests)
            case p.Each():
                return self._tested(self._each_step(pattern), pattern.tests)
        raise TypeError(f"{pattern!r} is no pattern")

    def _op_step(self, op: p.Op, index: int) -> Step:
        body, is_final = _Body(op, self, op.tests), self.is_final(op)
        is_memoized = self.is_closed(op) and op.depth() > 1
        plans, is_repeated = body.plans, body.is_repeated

        def step(subject: Any, path: Path, attempt: Attempt) -> bool:
            if not isinstance(subject, Value):
                return False
            node = subject.producer
            if not isinstance(node, Node) or subject.index != index:
                return False
            if is_repeated and id(op) in attempt.bound:
                return attempt.bound[id(op)] is node
            orders = plans.get(node.op)
            if orders is None or len(orders) > 1:
                orders = body.orders(node)
            if not orders:
                return False
            if is_memoized and (op, node) in attempt.misfits:
                return False
            if len(orders) == 1 and not is_memoized:
                return body.fits(node, orders[0], path, attempt)
            met = attempt.met
            if len(orders) == 1:
                if body.fits(node, orders[0], path, attempt):
                    return True
            elif is_final:
                mark = attempt.mark()
                for order in orders:
                    if body.fits(node, order, path, attempt):
                        return True
                    attempt.undo(mark)
            elif body.fits(node, orders[attempt.choose(len(orders))], path, attempt):
                return True
            if is_memoized and attempt.met == met:
                attempt.misfits.add((op, node))
            return False

        return step

    def _optional_step(self, pattern: p.Optional) -> Step:
        inner, names = self._tested(self.step(pattern.pattern), pattern.tests), tuple(pattern.names())

        def step(subject: Any, path: Path, attempt: Attempt) -> bool:
            if subject is not None and subject is not ABSENT:
                return inner(subject, path, attempt)
            for name in names:
                attempt.captures.setdefault(name)
            return True

        return step

    def _choice_step(self, pattern: p.OneOf) -> Step:
        is_final = self.is_final(pattern)
        steps = [self._tested(self.step(one), pattern.tests) for one in pattern.alternatives]

        def step(subject: Any, path: Path, attempt: Attempt) -> bool:
            if not is_final:
                return steps[attempt.choose(len(steps))](subject, path, attempt)
            mark = attempt.mark()
            for one in steps:
                if one(subject, path, attempt):
                    return True
                attempt.undo(mark)
            return False

        return step

    def _items_step(self, pattern: p.Items) -> Step:
        steps = [(str(index), self.step(item)) for index, item in enumerate(pattern.items)]
        is_open = pattern.is_open

        def step(subject: Any, path: Path, attempt: Attempt) -> bool:
            if not isinstance(subject, tuple) or len(subject) < len(steps):
                return False
            if len(subject) > len(steps) and not is_open:
                return False
            return all(item(found, (path, name), attempt) for (name, item), found in zip(steps, subject, strict=False))

        return step

    def _each_step(self, pattern: p.Each) -> Step:
        item = self.step(pattern.pattern)
        names, ops = tuple(set(pattern.pattern.names())), [id(op) for op in pattern.pattern.inner_ops()]

        def step(subject: Any, path: Path, attempt: Attempt) -> bool:
            if not isinstance(subject, tuple) or len(subject) < pattern.minimum:
                return False
            columns: dict[str, list[Any]] = {name: [] for name in names}
            for index, found in enumerate(subject):
                for op in ops:
                    attempt.bound.pop(op, None)
                if not attempt.settle(partial(item, found, (path, str(index)), attempt)):
                    return False
                for name, column in columns.items():
                    column.append(attempt.captures.pop(name, None))
            attempt.captures.update({name: tuple(column) for name, column in columns.items()})
            return pattern.name is None or attempt.capture(pattern.name, subject, path)

        return step

    @staticmethod
    def _tested(step: Step, tests: tuple[p.Test, ...]) -> Step:
        if not tests:
            return step
        return lambda subject, path, attempt: step(subject, path, attempt) and passes(tests, subject)


def _fits_all(root: _Body, node: Node, order: _Order, attempt: Attempt) -> bool:
    return root.fits(node, order, (None, node.op.short_name), attempt) and attempt.owns_all()


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

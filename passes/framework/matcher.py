"""Pattern matcher with backtracking.

The search keeps a list of goals, each a pattern and its subject, and solves them in order. A goal with several
alternatives (a commutative op, `OneOf`) tries each with all later goals, so that wrong choices are undone. The `Miss`
is that of the attempt that got furthest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from attrs import define, evolve, field, frozen

from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import OpDef, Trait
from graphpress.passes.framework import patterns as p
from graphpress.passes.framework.match import (
    ABSENT,
    Match,
    Miss,
    Text,
    constant_complaint,
    fits_literal,
    is_commutative,
    is_python_value,
    parameter,
    readers,
    show,
    type_complaint,
)

Path = tuple[str, ...]
_Wanted = dict[str, p.Pattern]


def match_pattern(pattern: p.Pattern, node: Node) -> Match | Miss:
    """Match `pattern` with its root at `node`."""
    search, path = _Search(node), (node.op.short_name,)
    if search.solve(_Goal(pattern, node, path, node, _Goal(_Finish(), node, path, node, None))):
        captures = dict.fromkeys(_names(pattern)) | search.state.captures
        return Match(node, tuple(search.state.nodes), captures, search.state.paths)
    assert search.miss is not None
    return search.miss


@lru_cache(maxsize=1024)
def _names(pattern: p.Pattern) -> tuple[str, ...]:
    return tuple(pattern.names())


@define(eq=False)
class _Goal:
    """Match `pattern` with `subject`, which `node` reads, then solve `rest`.

    The subject of an `Op` is a value, or a node at the root, where any result counts.
    """

    pattern: Any
    subject: Any
    path: Path
    node: Node
    rest: _Goal | None


@frozen(eq=False)
class _Close:
    """Completes a node after its operands: counts, captures and tests it."""

    op: p.Op


@frozen(eq=False)
class _Tests:
    """Predicates on the subject."""

    tests: tuple[p.Test, ...]


@frozen(eq=False)
class _Finish:
    """Final checks that need all matched nodes: `single_use` and `unshared`."""


@define(eq=False)
class _State:
    captures: dict[str, Any] = field(factory=dict)
    paths: dict[str, Path] = field(factory=dict)
    nodes: list[Node] = field(factory=list)
    bound: dict[int, Node] = field(factory=dict)  # the node of each `Op` object
    owned: list[tuple[Node | Value, Path]] = field(factory=list)  # what only the match may read

    def copy(self) -> _State:
        return _State(dict(self.captures), dict(self.paths), list(self.nodes), dict(self.bound), list(self.owned))


@define(eq=False)
class _Search:
    root: Node
    state: _State = field(factory=_State)
    miss: Miss | None = None
    _solved: int = 0

    def solve(self, goal: _Goal | None) -> bool:
        """Solve `goal` and all later goals, and restore all state but `miss` on failure."""
        if goal is None:
            return True
        self._solved += 1
        if _SOLVERS[type(goal.pattern)](self, goal):
            return True
        self._solved -= 1
        return False

    def fail(self, goal: _Goal, expected: Text, found: Text) -> bool:
        progress = (len(self.state.nodes), self._solved)
        if self.miss is None or progress > self.miss.progress:
            subject = goal.subject
            node = subject.node if isinstance(subject, Value) else subject if isinstance(subject, Node) else None
            self.miss = Miss(goal.path, expected, found, node or goal.node, progress)
        return False

    def capture(self, name: str | None, goal: _Goal) -> bool:
        """Capture the subject of `goal`, run the tests of its pattern, and continue."""
        subject, rest, state = goal.subject, _with_tests(goal), self.state
        if name is None:
            return self.solve(rest)
        if name in state.captures:
            known = state.captures[name]
            if known is subject or (not isinstance(subject, Value | Node) and known == subject):
                return self.solve(rest)
            return self.fail(goal, lambda: f"{show(known)}, already captured as {name!r}", lambda: show(subject))
        state.captures[name], state.paths[name] = subject, goal.path
        if self.solve(rest):
            return True
        del self.state.captures[name], self.state.paths[name]
        return False

    # One method per kind of goal.

    def any(self, goal: _Goal) -> bool:
        pattern, value = goal.pattern, goal.subject
        if not isinstance(value, Value):
            return self.fail(goal, "a value", lambda: show(value))
        complaint = type_complaint(pattern, value.type)
        if complaint is not None:
            return self.fail(goal, complaint, lambda: str(value.type))
        return self.capture(pattern.name, goal)

    def constant(self, goal: _Goal) -> bool:
        pattern, value = goal.pattern, goal.subject
        complaint = constant_complaint(pattern, value)
        if complaint is not None:
            return self.fail(goal, complaint, lambda: show(value))
        if not pattern.unshared:
            return self.any(goal)
        self.state.owned.append((value, goal.path))
        if self.any(goal):
            return True
        self.state.owned.pop()
        return False

    def optional(self, goal: _Goal) -> bool:
        pattern, captures = goal.pattern, self.state.captures
        if goal.subject is not None and goal.subject is not ABSENT:
            return self.solve(evolve(goal, pattern=pattern.pattern, rest=_with_tests(goal)))
        names = [name for name in pattern.names() if name not in captures]
        captures.update(dict.fromkeys(names))
        if self.solve(goal.rest):
            return True
        for name in names:
            del self.state.captures[name]
        return False

    def attribute(self, goal: _Goal) -> bool:
        if is_python_value(goal.subject):
            return self.capture(goal.pattern.name, goal)
        return self.fail(goal, "a Python value", lambda: show(goal.subject))

    def literal(self, goal: _Goal) -> bool:
        wanted, found = goal.pattern.value, goal.subject
        if fits_literal(wanted, found):
            return self.solve(goal.rest)
        return self.fail(goal, lambda: repr(wanted), lambda: show(found))

    def one_of(self, goal: _Goal) -> bool:
        rest = _with_tests(goal)
        return any(self.solve(evolve(goal, pattern=one, rest=rest)) for one in goal.pattern.alternatives)

    def items(self, goal: _Goal) -> bool:
        wanted, found, is_open = goal.pattern.items, goal.subject, goal.pattern.is_open
        if not isinstance(found, tuple) or len(found) < len(wanted) or (len(found) > len(wanted) and not is_open):
            least = "at least " if is_open else ""
            return self.fail(goal, f"a list of {least}{len(wanted)}", lambda: show(found))
        rest = goal.rest
        for index in reversed(range(len(wanted))):
            rest = _Goal(wanted[index], found[index], (*goal.path, str(index)), goal.node, rest)
        return self.solve(rest)

    def each(self, goal: _Goal) -> bool:
        """Match the items in order, each with its own captures; choices within an item are final."""
        pattern, found = goal.pattern, goal.subject
        if not isinstance(found, tuple) or len(found) < pattern.minimum:
            return self.fail(goal, f"a list of at least {pattern.minimum}", lambda: show(found))
        outer = self.state.copy()
        names, inner_ops = set(pattern.pattern.names()), [id(op) for op in pattern.pattern.inner_ops()]
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for index, item in enumerate(found):
            for name in names:
                self.state.captures.pop(name, None)
            for op in inner_ops:
                self.state.bound.pop(op, None)
            if not self.solve(_Goal(pattern.pattern, item, (*goal.path, str(index)), goal.node, None)):
                self.state = outer
                return False
            for name in names:
                columns[name].append(self.state.captures.get(name))
        self.state.captures.update({name: tuple(column) for name, column in columns.items()})
        if self.capture(pattern.name, goal):
            return True
        self.state = outer
        return False

    def op(self, goal: _Goal) -> bool:
        return self.node_of(goal.pattern, 0, goal)

    def result(self, goal: _Goal) -> bool:
        return self.node_of(goal.pattern.op, goal.pattern.index, goal)

    def node_of(self, pattern: p.Op, index: int, goal: _Goal) -> bool:
        subject, bound = goal.subject, self.state.bound
        node = subject if isinstance(subject, Node) else subject.node if isinstance(subject, Value) else None
        if node is None:
            return self.fail(goal, pattern.title, lambda: show(subject))
        if not pattern.accepts(node.op):
            return self.fail(goal, pattern.title, node.op.name)
        if isinstance(subject, Value) and subject.index != index:
            return self.fail(goal, f"result {index} of {pattern.title}", f"its result {subject.index}")
        known = bound.get(id(pattern))
        if known is not None:
            return self.solve(goal.rest) if known is node else self.fail(goal, f"{known.name} again", node.name)
        bound[id(pattern)] = node
        if self.operands(pattern, node, _Goal(_Close(pattern), node, goal.path, goal.node, goal.rest)):
            return True
        self.state.bound.pop(id(pattern), None)
        return False

    def operands(self, pattern: p.Op, node: Node, rest: _Goal) -> bool:
        """Match the parameters, in each operand order that the op allows."""
        orders = _orders(pattern, node.op)
        if orders is None:
            count = len(pattern.positional)
            return self.fail(rest, f"{count} parameters", lambda: f"{node.op.name} with {len(node.op.by_name)}")
        wanted, swapped = orders
        if not pattern.is_open:
            for name, operand in node.operands.items():
                if name not in wanted:
                    goal = _Goal(None, operand, (*rest.path, name), node, None)
                    return self.fail(goal, "no such operand", partial(show, operand))
        if self.in_order(wanted, node, rest):
            return True
        return swapped is not None and is_commutative(node) and self.in_order(swapped, node, rest)

    def in_order(self, wanted: dict[str, p.Pattern], node: Node, rest: _Goal) -> bool:
        goals = rest
        for name, pattern in reversed(wanted.items()):
            goals = _Goal(pattern, parameter(node, name), (*rest.path, name), node, goals)
        return self.solve(goals)

    def close(self, goal: _Goal) -> bool:
        op, node, state = goal.pattern.op, goal.subject, self.state
        is_new = node not in state.nodes
        is_owned = op.single_use and node is not self.root
        if is_new:
            state.nodes.append(node)
        if is_owned:
            state.owned.append((node, goal.path))
        if self.capture(op.name, _Goal(op, node, goal.path, goal.node, goal.rest)):
            return True
        if is_owned:
            self.state.owned.pop()
        if is_new:
            self.state.nodes.pop()
        return False

    def tests(self, goal: _Goal) -> bool:
        for test in goal.pattern.tests:
            if not test.predicate(goal.subject):
                return self.fail(goal, test.expected, partial(test.found or show, goal.subject))
        return self.solve(goal.rest)

    def finish(self, goal: _Goal) -> bool:
        if not self.state.owned:
            return True
        inside = {id(node) for node in self.state.nodes}
        for owned, path in self.state.owned:
            for value in owned.results if isinstance(owned, Node) else (owned,):
                outside = [use.user for use in value.uses if id(use.user) not in inside]
                if outside:
                    at = evolve(goal, subject=value, path=path)
                    return self.fail(at, "to be read within the match only", partial(readers, value, outside))
        return True


_SOLVERS: dict[type, Callable[[_Search, _Goal], bool]] = {
    p.Any: _Search.any,
    p.Constant: _Search.constant,
    p.Optional: _Search.optional,
    p.Attr: _Search.attribute,
    p.Literal: _Search.literal,
    p.OneOf: _Search.one_of,
    p.Items: _Search.items,
    p.Each: _Search.each,
    p.Op: _Search.op,
    p.Result: _Search.result,
    _Close: _Search.close,
    _Tests: _Search.tests,
    _Finish: _Search.finish,
}


@lru_cache(maxsize=4096)
def _orders(pattern: p.Op, op: OpDef) -> tuple[_Wanted, _Wanted | None] | None:
    """The patterns of the parameters by name, then with the first two exchanged if that is another pattern.

    None if `op` has fewer parameters than the pattern.
    """
    count = len(pattern.positional)
    names = [f"arg{i}" for i in range(count)] if op.variadic else list(op.by_name)
    if count > len(names):
        return None
    wanted = dict(zip(names, pattern.positional, strict=False)) | pattern.named
    if not op.has(Trait.COMMUTATIVE):
        return wanted, None
    first, second = wanted.get(names[0]), wanted.get(names[1])
    if first is second:
        return wanted, None
    swapped = {k: v for k, v in {**wanted, names[0]: second, names[1]: first}.items() if v is not None}
    return wanted, swapped


def _with_tests(goal: _Goal) -> _Goal | None:
    """Return the goal after `goal`, preceded by the tests of its pattern."""
    tests = goal.pattern.tests
    return evolve(goal, pattern=_Tests(tests)) if tests else goal.rest

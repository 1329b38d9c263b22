"""An index of rules by the ops that their patterns require: a bottom-up tree automaton.

The *shape* of a node is the set of those ops of the patterns that the node and the nodes that compute its operands can
be, as a bit mask. It follows from the op of the node and the shapes of its operands, so that it is found once per
combination of these, and from then on costs one lookup, however deep the patterns are. Captures, attributes and tests
are left to the matcher: what the index keeps may match, what it drops cannot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import define, field, frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import OpDef, Trait
from graphpress.passes.framework.match import fits_literal, parameter
from graphpress.passes.framework.matcher import operand_orders
from graphpress.passes.framework.patterns import Literal, Op, Pattern, Result, Test
from graphpress.passes.framework.rules import Rule

_Read: TypeAlias = "int | tuple[int, int]"
"""The shape of the node that computes an operand; with the number of the result, if that is not the first."""

_Order: TypeAlias = tuple[tuple[int, int, int], ...]
"""What an op of a pattern requires: the operand (its place in the plan), the result that it is, the op that made it."""


@frozen(eq=False)
class Candidate:
    """A rule with necessary conditions for a match at a node of one op.

    Attributes:
        rule: the rule.
        tests: predicates that the node must satisfy.
        literals: Python values that the node must have, each under one of the names.
        is_conditional: whether there are tests or literals.
    """

    rule: Rule
    tests: tuple[Test, ...] = ()
    literals: tuple[tuple[tuple[str, ...], Any], ...] = ()
    is_conditional: bool = field(init=False)

    @is_conditional.default
    def _is_conditional(self) -> bool:
        return bool(self.tests or self.literals)

    @classmethod
    def of(cls, rule: Rule, op: OpDef) -> Candidate:
        """Derive the conditions if `rule` has only one root that fits `op`."""
        roots = [root for root in rule.roots if root.accepts(op)]
        if len(roots) > 1 or op.variadic:
            return cls(rule)
        (root,) = roots
        names = list(op.by_name)
        wanted: dict[str, Pattern] = dict(zip(names, root.positional, strict=False)) | root.named
        swapped = tuple(names[:2]) if op.has(Trait.COMMUTATIVE) else ()
        literals = [
            (swapped if name in swapped else (name,), pattern.value)
            for name, pattern in wanted.items()
            if isinstance(pattern, Literal)
        ]
        return cls(rule, tuple(test for test in root.tests if test.is_total), tuple(literals))

    def may_match(self, node: Node) -> bool:
        """False only if the rule cannot match, given that the shapes of the operands fit."""
        for test in self.tests:
            if not test.predicate(node):
                return False
        for names, value in self.literals:
            for name in names:
                if fits_literal(value, parameter(node, name)):
                    break
            else:
                return False
        return True


class RuleIndex(dict[OpDef, "tuple[Candidate, ...]"]):
    """The rules by the op of their root, in their order; each op is tested once.

    Attributes:
        depth: depth of the deepest pattern, in nodes.
        reach: for each op, the depth of the deepest of its patterns; 0 if there is none.
    """

    def __init__(self, rules: Sequence[Rule]):
        super().__init__()
        self.depth = max((rule.depth for rule in rules), default=1)
        self.reach = _Reach(self)
        self._rules = tuple(rules)
        self._plans = _Plans(self)
        self._shapes: dict[Node, int] = {}  # of nodes whose shape depends on what they read

    def __missing__(self, op: OpDef) -> tuple[Candidate, ...]:
        found = self[op] = tuple(Candidate.of(rule, op) for rule in self._rules if rule.may_start_at(op))
        return found

    def candidates(self, node: Node) -> list[Rule]:
        """The rules that may match with their root at `node`, after cheap tests of the node."""
        return [candidate.rule for candidate in self.at(node) if candidate.may_match(node)]

    def at(self, node: Node) -> tuple[Candidate, ...]:
        """The candidates that the op of `node` and the shapes of its operands leave."""
        plan = self._plans[node.op]
        if not plan.names:
            return plan.candidates
        read = self._read(node, plan)
        found = plan.left.get(read)
        return plan.leave(read) if found is None else found

    def follow(self, graph: Graph) -> None:
        """Find the shapes of the nodes of `graph`, which `refresh` keeps up to date.

        Until then, only the ops of a node and of its operands count.
        """
        if self.depth > 2:  # else no shape depends on operands
            for node in graph.nodes_of(self._depends_on_operands):
                self._shapes[node] = self._shape(node)

    def refresh(self, touched: Iterable[Node]) -> None:
        """Find the shapes of new nodes and of nodes that read something else than before, and of what they change."""
        if self.depth <= 2:
            return
        pending = [node for node in touched if self._depends_on_operands(node.op)]
        while pending:
            node = pending.pop()
            shape = self._shape(node)
            if node.graph is not None and self._shapes.get(node) != shape:
                self._shapes[node] = shape
                users = [user for result in node.results for user, _, _ in result._uses]
                pending += [user for user in users if isinstance(user, Node) and self._depends_on_operands(user.op)]

    def _depends_on_operands(self, op: OpDef) -> bool:
        return self._plans[op].shape is None

    def _shape(self, node: Node) -> int:
        plan = self._plans[node.op]
        read = self._read(node, plan)
        found = plan.shapes.get(read)
        return plan.shape_of(read) if found is None else found

    def _read(self, node: Node, plan: _Plan) -> tuple[_Read, ...]:
        """The shapes of the operands that matter, in order."""
        read: list[_Read] = []
        operands, plans = node.operands, self._plans
        for name in plan.names:
            value = operands.get(name)
            if isinstance(value, Value):
                producer = value.producer
                if isinstance(producer, Node):
                    made_by = plans[producer.op]
                    shape = made_by.shape
                    if shape is None:
                        shape = self._shapes.get(producer, made_by.widest)
                    read.append((shape, value.index) if value.index else shape)
                    continue
            read.append(0)
        return tuple(read)


class _Reach(dict[OpDef, int]):
    def __init__(self, index: RuleIndex):
        super().__init__()
        self._index = index

    def __missing__(self, op: OpDef) -> int:
        found = self[op] = max((candidate.rule.depth for candidate in self._index[op]), default=0)
        return found


@define(eq=False)
class _Plan:
    """What the index knows of the nodes of one op.

    Attributes:
        names: the operands that matter.
        candidates: the rules that may have their root there.
        orders: for each candidate, the operands that it requires, in each order that the op allows.
        parts: the ops of patterns that such a node may be as an operand, with what these require.
        widest: the shape of a node whose operands are all that the parts require.
        shape: the shape of every node of the op; None if it depends on the operands.
        left: the candidates found, by what the operands are.
        shapes: the shapes found, by what the operands are.
    """

    names: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    orders: tuple[tuple[_Order, ...], ...]
    parts: tuple[tuple[int, tuple[_Order, ...]], ...]
    widest: int = field(init=False)
    shape: int | None = field(init=False)
    left: dict[tuple[_Read, ...], tuple[Candidate, ...]] = field(factory=dict, init=False)
    shapes: dict[tuple[_Read, ...], int] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        is_fixed = all(not order for _, orders in self.parts for order in orders)
        self.widest = sum(1 << part for part, orders in self.parts if orders)
        self.shape = self.widest if is_fixed else None

    def leave(self, read: tuple[_Read, ...]) -> tuple[Candidate, ...]:
        """The candidates whose requirements `read` meets."""
        pairs = zip(self.candidates, self.orders, strict=True)
        found = self.left[read] = tuple(candidate for candidate, orders in pairs if _is_met(orders, read))
        return found

    def shape_of(self, read: tuple[_Read, ...]) -> int:
        """The parts whose requirements `read` meets."""
        found = self.shapes[read] = sum(1 << part for part, orders in self.parts if _is_met(orders, read))
        return found


def _is_met(orders: tuple[_Order, ...], read: tuple[_Read, ...]) -> bool:
    return any(all(_is_made_by(read[place], index, part) for place, index, part in order) for order in orders)


def _is_made_by(read: _Read, index: int, part: int) -> bool:
    shape, found = read if isinstance(read, tuple) else (read, 0)
    return index == found and bool(shape >> part & 1)


class _Plans(dict[OpDef, _Plan]):
    """The plans of the ops of a graph, each made when it is first met."""

    def __init__(self, index: RuleIndex):
        super().__init__()
        self._index = index
        pending = [root for rule in index._rules for root in rule.roots]
        self._parts: dict[int, int] = {}  # the number of each op that another one requires, by its identity
        self._inner: list[Op] = []
        while pending:
            part = pending.pop()
            wanted = {str(place): each for place, each in enumerate(part.parts)}
            for _, _, op in _ops_of(wanted):
                if id(op) not in self._parts:
                    self._parts[id(op)] = len(self._inner)
                    self._inner.append(op)
                    pending.append(op)

    def __missing__(self, op: OpDef) -> _Plan:
        names: dict[str, int] = {}
        candidates = self._index[op]
        orders = [
            tuple(order for root in candidate.rule.roots for order in self._orders(root, op, names))
            for candidate in candidates
        ]
        parts = [(self._parts[id(part)], self._orders(part, op, names)) for part in self._inner if part.accepts(op)]
        plan = self[op] = _Plan(tuple(names), candidates, tuple(orders), tuple(parts))
        return plan

    def _orders(self, pattern: Op, op: OpDef, names: dict[str, int]) -> tuple[_Order, ...]:
        """What `pattern` requires at a node of `op`; `names` numbers the operands, and is extended."""
        orders = operand_orders(pattern, op) if pattern.accepts(op) else None
        if orders is None:
            return ()
        return tuple(
            tuple(
                (names.setdefault(name, len(names)), index, self._parts[id(part)])
                for name, index, part in _ops_of(order)
            )
            for order in orders
            if order is not None
        )


def _ops_of(parameters: Mapping[str, Pattern]) -> Iterator[tuple[str, int, Op]]:
    """Yield the parameters that an op must compute: the name, the number of the result, and that op."""
    for name, pattern in parameters.items():
        op, index = (pattern.op, pattern.index) if isinstance(pattern, Result) else (pattern, 0)
        if isinstance(op, Op):
            yield name, index, op

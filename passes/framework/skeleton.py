"""A necessary condition of a match: the ops of a pattern, without captures, tests and attributes."""

from __future__ import annotations

from attrs import field, frozen

from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import OpDef
from graphpress.passes.framework import patterns as p
from graphpress.passes.framework.attempt import Misfits
from graphpress.passes.framework.matcher import operand_orders

_Operands = tuple[tuple[str, int, "Skeleton"], ...]


@frozen(eq=False)
class Skeleton:
    """The op of a pattern, and those that must compute its operands.

    What does not fit is remembered, so that nested commutative ops take time linear in their depth.
    """

    op: p.Op
    _inner: dict[int, Skeleton] = field(factory=dict)
    _plans: dict[OpDef, tuple[_Operands, ...]] = field(factory=dict)

    def depth(self) -> int:
        """The number of ops on the longest chain."""
        ops = [part.op if isinstance(part, p.Result) else part for part in self.op.parts]
        return 1 + max((Skeleton(op).depth() for op in ops if isinstance(op, p.Op)), default=0)

    def fits(self, node: Node, misfits: Misfits) -> bool:
        """False only if the pattern cannot match `node`."""
        orders = self._plans.get(node.op)
        if orders is None:
            orders = self._plans[node.op] = self._orders_of(node.op)
        if not orders:
            return False
        operands = node.operands
        for order in orders:
            for name, index, inner in order:
                value = operands.get(name)
                if not isinstance(value, Value) or value.index != index:
                    break
                producer = value.producer
                if not isinstance(producer, Node) or (inner.op, producer) in misfits:
                    break
                if not inner.fits(producer, misfits):
                    break
            else:
                return True
        misfits.add((self.op, node))
        return False

    def _orders_of(self, op: OpDef) -> tuple[_Operands, ...]:
        orders = operand_orders(self.op, op) if self.op.accepts(op) else None
        return () if orders is None else tuple(self._operands(order) for order in orders if order is not None)

    def _operands(self, order: dict[str, p.Pattern]) -> _Operands:
        found = []
        for name, part in order.items():
            op, index = (part.op, part.index) if isinstance(part, p.Result) else (part, 0)
            if isinstance(op, p.Op):
                found.append((name, index, self._inner.setdefault(id(op), Skeleton(op))))
        return tuple(found)

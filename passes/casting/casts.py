"""Cast nodes: at most one for each value and element type."""

from __future__ import annotations

from attrs import define, field

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter


@define(eq=False)
class Casts:
    """Makes casts right behind what they cast, and remembers them."""

    rewriter: Rewriter
    _made: dict[tuple[int, DType], Value] = field(factory=dict, init=False)
    _widened: dict[int, Value] = field(factory=dict, init=False)

    def cast(self, value: Value, dtype: DType) -> Value:
        """`value` as `dtype`; itself where it is that already, and what it was widened from where that is."""
        if value.tensor_type.dtype is dtype:
            return value
        widened_from = self._widened.get(id(value))
        if widened_from is not None and widened_from.tensor_type.dtype is dtype:
            return widened_from
        key = id(value), dtype
        if key not in self._made:
            anchor = value.node._next if value.node is not None else self.rewriter.graph._first
            location = value.node.location if value.node is not None else None
            node = self.rewriter.insert_before(
                anchor,
                "aten._to_copy",
                {"self": value},
                {"dtype": dtype},
                types=[value.tensor_type.with_dtype(dtype)],
                name=f"{value.name}_{dtype.value}".replace("#", "_").replace(".", "_"),
                location=location,
            )
            self._made[key] = node.result
            if dtype.bits > value.tensor_type.dtype.bits:
                self._widened[id(node.result)] = value
        return self._made[key]

    def finish(self) -> int:
        """Erase casts that nothing reads after all; the number of those that stay."""
        nodes = [value.node for value in self._made.values() if value.node is not None]
        for node in nodes:
            if node.is_dead:
                self.rewriter.erase(node)
        return sum(node.graph is not None for node in nodes)

    def cast_operands(self, node: Node, wanted: dict[int, DType]) -> None:
        """Let `node` read every operand whose ``id`` is in `wanted` as the element type given there."""
        for name, operand in list(node.operands.items()):
            if isinstance(operand, Value):
                if id(operand) in wanted:
                    self.rewriter.set_operand(node, name, self.cast(operand, wanted[id(operand)]))
            elif isinstance(operand, tuple) and any(id(item) in wanted for item in operand):
                items = [self.cast(item, wanted[id(item)]) if id(item) in wanted else item for item in operand]
                self.rewriter.set_operand(node, name, items)

"""Constant expressions of a graph, as steps that run on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import frozen
from torch import Tensor

from graphpress.ir.graph import Node, Value
from graphpress.ir.inference import to_torch
from graphpress.ir.ops import OpDef


@frozen
class Slot:
    """The source of an operand of a step: an argument of the expression, or an earlier step."""

    index: int
    is_argument: bool


Operands = tuple[tuple[str, Slot], ...]


@frozen
class Step:
    """One op of an expression."""

    op: OpDef
    operands: Operands
    attributes: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, node: Node, operands: Operands) -> Step:
        """Build the step that computes `node` from `operands`."""
        return cls(node.op, operands, tuple(node.attributes.items()))

    def run(self, operands: dict[str, Tensor]) -> Tensor:
        """Compute the result for these operands."""
        if self.op.evaluate is not None:
            evaluated: Tensor = self.op.evaluate(**operands, **dict(self.attributes))
            return evaluated
        assert self.op.target is not None
        args, kwargs = self.op.unbind(operands | {name: to_torch(value) for name, value in self.attributes})
        result: Tensor = self.op.target(*args, **kwargs)
        return result


S = TypeVar("S", bound=Step)


def steps_to(value: Value, arguments: list[Value], step: Callable[[Node, Operands], S]) -> tuple[S, ...]:
    """Build the steps that compute `value` with `step`, and append the constants they read to `arguments`."""
    steps: list[S] = []
    slots: dict[int, Slot] = {}

    def visit(current: Value) -> Slot:
        if id(current) not in slots:
            node = current.node
            if node is None:
                slots[id(current)] = Slot(place_in(arguments, current), True)
            else:
                operands = tuple((name, visit(read)) for name, _, read in node.operand_values())
                steps.append(step(node, operands))
                slots[id(current)] = Slot(len(steps) - 1, False)
        return slots[id(current)]

    visit(value)
    return tuple(steps)


def compute(
    steps: Sequence[S], arguments: Sequence[Tensor], run: Callable[[S, dict[str, Tensor]], Tensor] = Step.run
) -> Tensor:
    """Compute the value of `steps` for `arguments`; without steps, it is the argument."""
    results: list[Tensor] = []
    for step in steps:
        operands = {name: (arguments if slot.is_argument else results)[slot.index] for name, slot in step.operands}
        results.append(run(step, operands))
    return results[-1] if results else arguments[0]


def place_in(items: list[Any], item: Any) -> int:
    """Return the index of `item` in `items` by identity, appending it if missing."""
    for place, known in enumerate(items):
        if known is item:
            return place
    items.append(item)
    return len(items) - 1

"""Constant expressions of a graph, as steps that run on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import frozen
from torch import Tensor

from graphpress.ir.calling import result_paths
from graphpress.ir.graph import Value
from graphpress.ir.inference import to_torch
from graphpress.ir.ops import OpDef


@frozen
class Slot:
    """The source of an operand of a step: an argument of the expression, or an earlier step."""

    index: int
    is_argument: bool


# By operand name; a tuple for a list, with its items that are no tensors, such as None in the indices of a table.
Operands = tuple[tuple[str, Slot | tuple[Any, ...]], ...]


@frozen
class Step:
    """One op of an expression, and which of its results the expression uses.

    Attributes:
        op: the op.
        operands: the sources of its operands.
        attributes: the attributes of its node.
        path: the indices of the result in what the op returns; empty if it returns one tensor.
    """

    op: OpDef
    operands: Operands
    attributes: tuple[tuple[str, Any], ...] = ()
    path: tuple[Any, ...] = ()

    @classmethod
    def of(cls, value: Value, operands: Operands) -> Step:
        """Build the step that computes `value`, the result of a node, from `operands`."""
        node = value.node
        assert node is not None
        return cls(node.op, operands, tuple(node.attributes.items()), path_of(value))

    def run(self, operands: dict[str, Any]) -> Tensor:
        """Compute the result for these operands."""
        returned: Any
        if self.op.evaluate is not None:
            returned = self.op.evaluate(**operands, **dict(self.attributes))
        else:
            assert self.op.target is not None
            args, kwargs = self.op.unbind(operands | {name: to_torch(value) for name, value in self.attributes})
            returned = self.op.target(*args, **kwargs)
        for index in self.path:
            returned = returned[index]
        result: Tensor = returned
        return result


S = TypeVar("S", bound=Step)


def path_of(value: Value) -> tuple[Any, ...]:
    """Return the indices of `value`, the result of a node, in what the op of the node returns."""
    node = value.node
    assert node is not None
    place = next(place for place, result in enumerate(node.results) if result is value)
    return result_paths(node)[place]


def steps_to(value: Value, arguments: list[Value], step: Callable[[Value, Operands], S]) -> tuple[S, ...]:
    """Build the steps that compute `value` with `step`, and append the constants they read to `arguments`.

    Each step computes one value, so an op with several results is a step for each result that is read.
    """
    steps: list[S] = []
    slots: dict[int, Slot] = {}

    def source(operand: Any) -> Any:
        if isinstance(operand, tuple):
            return tuple(source(item) for item in operand)
        return visit(operand) if isinstance(operand, Value) else operand

    def visit(current: Value) -> Slot:
        if id(current) not in slots:
            node = current.node
            if node is None:
                slots[id(current)] = Slot(place_in(arguments, current), True)
            else:
                operands = tuple((name, source(operand)) for name, operand in node.operands.items())
                steps.append(step(current, operands))
                slots[id(current)] = Slot(len(steps) - 1, False)
        return slots[id(current)]

    visit(value)
    return tuple(steps)


def compute(
    steps: Sequence[S], arguments: Sequence[Tensor], run: Callable[[S, dict[str, Any]], Tensor] = Step.run
) -> Tensor:
    """Compute the value of `steps` for `arguments`; without steps, it is the argument."""
    results: list[Tensor] = []

    def read(operand: Any) -> Any:
        if isinstance(operand, Slot):
            return (arguments if operand.is_argument else results)[operand.index]
        return [read(item) for item in operand] if isinstance(operand, tuple) else operand

    for step in steps:
        results.append(run(step, {name: read(operand) for name, operand in step.operands}))
    return results[-1] if results else arguments[0]


def place_in(items: list[Any], item: Any) -> int:
    """Return the index of `item` in `items` by identity, appending it if missing."""
    for place, known in enumerate(items):
        if known is item:
            return place
    items.append(item)
    return len(items) - 1

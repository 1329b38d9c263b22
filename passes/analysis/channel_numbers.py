"""Numbers of channels as data: ops that only move elements run on them, which tells where each channel goes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.ops import Trait
from graphpress.ir.types import DimError, ScalarType, TensorType, evaluate_dim

# Ops beside the views (`Trait.VIEW`) of which every result element is an element of the operand.
_COPIES = frozenset({"clone", "repeat", "repeat_interleave", "tile", "roll"})
# Most elements that channels are tracked through, for the time this takes.
_MOST_ELEMENTS = 1 << 28


class Untracked(Exception):
    """The reason why channels cannot be tracked; a pass catches and reports it."""


def hints_of(graph: Graph) -> dict[str, int]:
    """Return an example value of each symbol of `graph`."""
    return {name: symbol.hint for name, symbol in graph.symbols.items()}


def shape_at(value: Value, hints: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of `value` at `hints`.

    Raises:
        Untracked: if it is not a tensor of known shape, or too large.
    """
    if not isinstance(value.type, TensorType):
        raise Untracked(f"{value.name} is not a tensor")
    try:
        shape = tuple(evaluate_dim(dim, hints) for dim in value.type.shape)
    except DimError:
        raise Untracked(f"the shape of {value.name} is known at run time only") from None
    if not 0 < prod(shape) <= _MOST_ELEMENTS:
        raise Untracked(f"{value.name} has {prod(shape)} elements")
    return shape


def numbered(value: Value, axis: int, hints: Mapping[str, int]) -> Tensor:
    """Return the numbers of the channels of `value`, along `axis` counted from the end, in its shape: int64."""
    shape = shape_at(value, hints)
    return torch.arange(shape[axis]).reshape(-1, *[1] * (-axis - 1)).expand(shape)


def axis_of(channels: Tensor, count: int) -> int | None:
    """Return the axis, counted from the end, along which `channels` are numbered in order, or None."""
    for axis in range(-1, -channels.ndim - 1, -1):
        if channels.shape[axis] == count:
            row = torch.arange(count).reshape(-1, *[1] * (-axis - 1))
            if torch.equal(channels, row.expand_as(channels)):
                return axis
    return None


def only_moves(node: Node) -> bool:
    """Return True for an op of torch of which every result element is an element of its first operand."""
    return node.op.dialect == "aten" and (node.op.has(Trait.VIEW) or node.op.family in _COPIES)


def moved(node: Node, operand: str, channels: Tensor, hints: Mapping[str, int]) -> list[Tensor]:
    """Return the channels of the results of an op that only moves elements.

    Args:
        node: the op.
        operand: the name of the operand that has `channels`.
        channels: in the shape of the operand at `hints`.
        hints: values of the symbols.

    Raises:
        Untracked: if the operand is not the data, or others are known at run time only.
    """
    value = node.operand(operand)
    if operand not in ("self", "input", "tensor"):
        raise Untracked(f"{node.name} reads its shape from it")

    def read(other: Value) -> object:
        if other is value:
            return channels
        if isinstance(other.type, ScalarType) and other.type.value is not None:
            return evaluate_dim(other.type.value, hints)
        raise Untracked(f"{node.name} has an operand that is known at run time only")

    try:
        results = evaluate_node(node, read)
    except (RuntimeError, DimError) as error:
        raise Untracked(f"{node.name} cannot be followed: {error}") from None
    if len(results) != len(node.results):
        raise Untracked(f"{node.name} has a number of results that is known at run time only")
    return results

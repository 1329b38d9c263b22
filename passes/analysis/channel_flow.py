"""Tracking of the channels of a value through ops that are linear in it, up to the layers that sum over them.

The elements of the source are numbered by their channel, and the numbers go through the ops: moving ops run on them,
and for a product or an attention each result element has the channel of the operand elements that it is a combination
of. Thus no rule says what a reshape, a transpose or the repetition of key-value heads does to channels.
"""

from __future__ import annotations

import torch
from attrs import define, field, frozen
from torch import Tensor

from graphpress.ir.graph import Graph, Node, Use, Value
from graphpress.passes.analysis.channel_numbers import Untracked, hints_of, moved, numbered, only_moves, shape_at
from graphpress.passes.analysis.constants import is_constant, is_idle_dropout

# By family: the operand that is summed over its last axis, the weight, and the axis of the weight that is summed over.
_MATRICES = {
    "linear": ("input", "weight", 1),
    "matmul": ("self", "other", 0),
    "mm": ("self", "mat2", 0),
    "addmm": ("mat1", "mat2", 0),
}
_BIASES = {"linear": "bias", "matmul": None, "mm": None, "addmm": "self"}


def matrix_of(node: Node, operand: str) -> tuple[str, int] | None:
    """Return name and summed axis of the weight that `node` multiplies `operand` with, or None.

    The weight of a linear layer may be computed; that of another product is constant.
    """
    if node.op.dialect != "aten" or node.op.family not in _MATRICES:
        return None
    data, name, axis = _MATRICES[node.op.family]
    weight = node.operand(name)
    if operand != data or weight is None or weight.tensor_type.rank != 2:
        return None
    if node.op.family != "linear" and not is_constant(weight):
        return None
    return name, axis


@frozen(eq=False)
class ChannelReader:
    """A linear layer, or a product with a matrix, that sums over tracked channels.

    Attributes:
        node: the layer or product.
        operand: the name of its weight.
        axis: the axis of the weight that it sums over.
        channels: int64, the channel of the source that each of its input features is.
        is_moved_only: True if only moving ops are between the source and the layer, so that a constant added to a
            channel arrives as it is.
    """

    node: Node
    operand: str
    axis: int
    channels: Tensor
    is_moved_only: bool

    @property
    def weight(self) -> Value:
        """Its weight."""
        found: Value = self.node.operands[self.operand]
        return found

    @property
    def bias(self) -> str | None:
        """The name of the operand that is its bias; None for a product that has none."""
        return _BIASES[self.node.op.family]

    @property
    def keeps_order(self) -> bool:
        """True if input feature i is channel i."""
        return torch.equal(self.channels, torch.arange(len(self.channels)))


@frozen(eq=False)
class ChannelFlow:
    """Where the channels of a value go.

    Attributes:
        readers: the linear layers that read them.
        pinned: bool, one entry per channel: True if something else reads the channel, so that it must stay as it is.
        reasons: what pins channels, in words.
    """

    readers: tuple[ChannelReader, ...]
    pinned: Tensor
    reasons: tuple[str, ...]


def channel_flow(graph: Graph, source: Value) -> ChannelFlow:
    """Track the channels, the last axis, of `source`, which must have a static number of them."""
    count = source.tensor_type.shape[-1]
    assert isinstance(count, int)
    tracker = _Tracker(hints_of(graph), count)
    tracker.run(source)
    return ChannelFlow(tuple(tracker.readers), tracker.pinned, tuple(dict.fromkeys(tracker.reasons)))


@frozen(eq=False)
class _Tracked:
    value: Value
    channels: Tensor  # in the shape of the value at the hints of its symbols
    is_moved_only: bool


@define(eq=False)
class _Tracker:
    hints: dict[str, int]
    count: int
    readers: list[ChannelReader] = field(factory=list)
    reasons: list[str] = field(factory=list)
    pinned: Tensor = field(init=False)
    _visited: dict[Node, _Tracked] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.pinned = torch.zeros(self.count, dtype=torch.bool)

    def run(self, source: Value) -> None:
        try:
            pending = [_Tracked(source, numbered(source, -1, self.hints), True)]
        except Untracked as reason:
            self._pin(torch.arange(self.count), str(reason))
            return
        while pending:
            tracked = pending.pop()
            for use in tracked.value.uses:
                try:
                    pending += self._follow(use, tracked)
                except Untracked as reason:
                    self._pin(tracked.channels, str(reason))

    def _pin(self, channels: Tensor, reason: str) -> None:
        self.pinned[channels.unique()] = True
        self.reasons.append(reason)

    def _follow(self, use: Use, tracked: _Tracked) -> list[_Tracked]:
        node = use.user
        if not isinstance(node, Node):
            raise Untracked(f"{tracked.value.name} is an output of the graph")
        earlier = self._visited.setdefault(node, tracked)
        if earlier is not tracked or sum(read is tracked.value for _, _, read in node.operand_values()) > 1:
            self._pin(earlier.channels, f"{node.name} reads the channels twice")
            raise Untracked(f"{node.name} reads the channels twice")
        weight = matrix_of(node, use.operand)
        if weight is not None:
            channels = _along_last_axis(tracked.channels, node)
            self.readers.append(ChannelReader(node, *weight, channels, tracked.is_moved_only))
            return []
        if node.op.dialect != "aten":
            raise Untracked(f"{node.name} ({node.op.name}) reads it")
        if is_idle_dropout(node):
            return [_Tracked(node.result, tracked.channels, tracked.is_moved_only)]
        if only_moves(node):
            return self._moved(node, use, tracked)
        channels = self._combined(node, use, tracked.channels)
        return [_Tracked(node.result, channels, False)]

    def _moved(self, node: Node, use: Use, tracked: _Tracked) -> list[_Tracked]:
        results = moved(node, use.operand, tracked.channels, self.hints)
        return [_Tracked(*pair, tracked.is_moved_only) for pair in zip(node.results, results, strict=True)]

    def _combined(self, node: Node, use: Use, channels: Tensor) -> Tensor:
        """Return the channels of the result of an op that is linear in the operand."""
        family, operand = node.op.family, use.operand
        if len(node.results) != 1:
            raise Untracked(f"{node.name} has several results")
        shape = shape_at(node.result, self.hints)
        match family, operand:
            case ("mul", "self" | "other") | ("div", "self") | ("neg", "self"):
                if node.attributes.get("rounding_mode") is not None:
                    raise Untracked(f"{node.name} rounds")
                return channels.expand(shape)
            case (("to" | "_to_copy" | "type_as" | "contiguous"), "self") if node.result.is_floating:
                return channels.expand(shape)
            case (("matmul" | "bmm"), ("other" | "mat2")) if channels.ndim > 1:
                return _mixed_rows(channels, node).expand(shape)
            case "scaled_dot_product_attention", "value":
                mixed = _mixed_rows(channels, node)
                if node.attributes.get("enable_gqa") and mixed.ndim > 2:
                    mixed = mixed.repeat_interleave(shape[-3] // mixed.shape[-3], -3)
                return mixed.expand(shape)
        raise Untracked(f"{node.name} ({node.op.name}) reads it, and is not linear in single channels")


def _along_last_axis(channels: Tensor, node: Node) -> Tensor:
    row = channels.reshape(-1, channels.shape[-1])[0] if channels.ndim > 1 else channels
    if not torch.equal(channels, row.expand_as(channels)):
        raise Untracked(f"an input feature of {node.name} is not one channel at all positions")
    return row.clone()


def _mixed_rows(channels: Tensor, node: Node) -> Tensor:
    """Return the channels of sums over the axis before the last one."""
    row = channels[..., :1, :]
    if not torch.equal(channels, row.expand_as(channels)):
        raise Untracked(f"{node.name} sums over elements of different channels")
    return row

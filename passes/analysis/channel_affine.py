"""Ops that scale and shift each channel by constants: norms with weights, and products and sums with a vector.

The channels are the last axis. Models that write their norms out multiply by the weight in an op of its own.
"""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Node, Value
from graphpress.passes.analysis.constants import is_constant


@frozen(eq=False)
class ChannelAffine:
    """A node that computes ``f(input) * scale + shift``, where f does not depend on `scale` and `shift`.

    Attributes:
        node: the node.
        scale: the constant factor of each channel, with one axis of more than one element; None for 1.
        shift: the constant added to each channel, likewise; None for 0.
        input: the operand that replaces the result of a product or a sum without its constant; None for a norm, which
            normalizes also without weight and bias.
    """

    node: Node
    scale: Value | None
    shift: Value | None
    input: Value | None = None

    @property
    def channels(self) -> int:
        """The number of channels."""
        count = self.node.result.tensor_type.shape[-1]
        assert isinstance(count, int)
        return count


def channel_affine(node: Node) -> ChannelAffine | None:
    """Return `node` as a map of its channels, or None if it is none or its parameters are not constants.

    A norm without weight and bias is one too: it has neither scale nor shift.
    """
    if node.op.dialect != "aten" or len(node.results) != 1 or not node.result.is_floating:
        return None
    shape = node.result.tensor_type.shape
    if not shape or not isinstance(shape[-1], int):
        return None
    match node.op.family:
        case "layer_norm" | "rms_norm":
            scale, shift = node.operand("weight"), node.operand("bias")
            is_over_channels = tuple(node.attributes.get("normalized_shape", ())) == shape[-1:]
            are_constant = all(value is None or is_constant(value) for value in (scale, shift))
            return ChannelAffine(node, scale, shift) if is_over_channels and are_constant else None
        case "mul" | "add" if node.attributes.get("alpha", 1) == 1:
            return _with_vector(node)
    return None


def _with_vector(node: Node) -> ChannelAffine | None:
    for vector, other in (("self", "other"), ("other", "self")):
        constant, input = node.operand(vector), node.operand(other)
        if constant is None or input is None or input.type != node.result.type or not _is_vector(constant, node):
            continue
        is_product = node.op.family == "mul"
        return ChannelAffine(node, constant if is_product else None, None if is_product else constant, input)
    return None


def _is_vector(value: Value, node: Node) -> bool:
    type = value.tensor_type
    count = node.result.tensor_type.shape[-1]
    ones = all(dim == 1 for dim in type.shape[:-1])
    same = type.rank > 0 and type.shape[-1] == count and type.dtype is node.result.tensor_type.dtype
    return ones and same and is_constant(value)

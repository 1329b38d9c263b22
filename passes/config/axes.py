"""Axes of weights for granularities: output channels for scales and groups, input channels for blocks."""

from __future__ import annotations

from typing import TypeVar

import attrs

from graphpress.ir.errors import suggestion
from graphpress.passes.config.errors import AxisError
from graphpress.passes.config.granularity import (
    Granularity,
    PerBlockGranularity,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    Shape,
)

G = TypeVar("G", bound=Granularity)

# Axes of (output channels, input channels) in the weight of each op type.
_CHANNEL_AXES: dict[str, tuple[int, int]] = {
    "linear": (0, 1),
    "embedding": (0, 1),
    "embedding_bag": (0, 1),
    "conv1d": (0, 1),
    "conv2d": (0, 1),
    "conv3d": (0, 1),
    "conv_transpose1d": (1, 0),
    "conv_transpose2d": (1, 0),
    "conv_transpose3d": (1, 0),
}


def weight_block_shape(granularity: Granularity, shape: Shape, op_type: str, name: str = "weight") -> Shape:
    """The block shape of a weight of `shape` that the op `op_type` uses.

    Raises:
        AxisError: when an axis is needed and the op type has no default, or it is out of range.
        BlockSizeError: when a block or group size does not divide its axis.
    """
    axis = weight_axis(granularity, op_type)
    if axis is not None:
        granularity = attrs.evolve(granularity, axis=axis)
    return granularity.block_shape(shape, name)


def weight_axis(granularity: Granularity, op_type: str) -> int | None:
    """The axis of the weight that `granularity` runs along; None if it runs along none or several.

    Scales and blocks name an axis of the tensor. Palettization groups name a *channel* axis, 0 for output and 1
    for input channels, in whichever order the op stores them: presets that group axis 0 then group the output
    channels of transposed convolutions too.

    Raises:
        AxisError: when an axis is needed and the op type has no default.
    """
    if isinstance(granularity, PerGroupedChannelGranularity):
        axis = granularity.axis
        if axis is None:
            return default_channel_axis(op_type)
        return _channel_axes(op_type)[axis] if axis in (0, 1) and has_default_axis(op_type) else axis
    return getattr(with_default_axis(granularity, op_type), "axis", None)


def with_default_axis(granularity: G, op_type: str) -> G:
    """A quantization granularity with the default axis of the op type, unchanged if it needs none.

    Palettization groups are returned unchanged: see `weight_axis`.

    Raises:
        AxisError: when an axis is needed and the op type has no default.
    """
    if isinstance(granularity, PerChannelGranularity) and granularity.axis is None:
        return attrs.evolve(granularity, axis=default_channel_axis(op_type))
    if isinstance(granularity, PerBlockGranularity) and granularity.axis is None:
        if isinstance(granularity.block_size, tuple):
            return granularity
        return attrs.evolve(granularity, axis=default_block_axis(op_type))
    return granularity


def with_axis_of_block(granularity: G, block: Shape) -> G:
    """A quantization granularity with the axis that blocks of this shape run along, unchanged if it needs none.

    The inverse of `weight_block_shape` for a granularity without an axis, which then is that of a weight's channels.
    """
    if isinstance(granularity, PerChannelGranularity) and granularity.axis is None and 1 in block:
        return attrs.evolve(granularity, axis=block.index(1))
    if isinstance(granularity, PerBlockGranularity) and granularity.axis is None and block:
        return (
            granularity
            if isinstance(granularity.block_size, tuple)
            else attrs.evolve(granularity, axis=int(block[0] == 1))
        )
    return granularity


def default_channel_axis(op_type: str) -> int:
    """Axis of the output channels in the weight of an op such as ``conv2d`` or ``aten.linear.default``.

    Raises:
        AxisError: for an op type without a default; the caller then needs an explicit axis.
    """
    return _channel_axes(op_type)[0]


def default_block_axis(op_type: str) -> int:
    """Axis of the input channels, along which blocks run, in the weight of an op. Raises as `default_channel_axis`."""
    return _channel_axes(op_type)[1]


def has_default_axis(op_type: str) -> bool:
    """True if `default_channel_axis` and `default_block_axis` know the op type."""
    return base_op_type(op_type) in _CHANNEL_AXES


def base_op_type(op_type: str) -> str:
    """An op type without namespace, overload and in-place mark: ``aten.conv2d.padding`` is ``conv2d``."""
    name = op_type.removeprefix("torch.ops.").removeprefix("aten.").removeprefix("aten::")
    name = name.split(".")[0]
    return name if name.endswith("__") else name.removesuffix("_")


def _channel_axes(op_type: str) -> tuple[int, int]:
    known = _CHANNEL_AXES.get(base_op_type(op_type))
    if known is None:
        raise AxisError(
            f"op type {op_type!r} has no default axis{suggestion(op_type, _CHANNEL_AXES)}; give the granularity"
            f" an axis, or use it on {', '.join(_CHANNEL_AXES)}"
        )
    return known

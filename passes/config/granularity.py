"""Granularities: which elements of a tensor share a scale, a zero point or a lookup table (LUT).

Every granularity divides a tensor into equal boxes of the shape `block_shape`. A scale has one entry per box, so its
shape is the tensor's shape divided by the box, axis by axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from graphpress.passes.config.arguments import Tagged, checked, integer, strict_arguments
from graphpress.passes.config.errors import AxisError, BlockSizeError, SpecError

Shape = tuple[int, ...]


class Granularity(Tagged):
    """Base of the granularities."""

    __slots__ = ()

    def block_shape(self, shape: Shape, name: str = "tensor") -> Shape:
        """The shape of a box in a tensor of `shape`; `name` is for errors.

        Raises:
            AxisError: when the axis is out of range, or omitted (see `weight_block_shape`).
            BlockSizeError: when a block or group size does not divide its axis.
        """
        raise TypeError(f"{type(self).__name__} does not define `block_shape`")

    def scale_shape(self, shape: Shape, name: str = "tensor") -> Shape:
        """Shape of the scale of a tensor of `shape`: the number of boxes along each axis. Raises as `block_shape`."""
        block = self.block_shape(shape, name)
        return tuple(extent // size if size else 1 for extent, size in zip(shape, block, strict=True))


@strict_arguments
@attrs.frozen
class PerTensorGranularity(Granularity):
    """One box: the whole tensor; there is no `axis`."""

    type_name: ClassVar[str] = "per_tensor"
    empty_arguments: ClassVar[frozenset[str]] = frozenset({"axis"})
    axis: ClassVar[None] = None

    def block_shape(self, shape: Shape, name: str = "tensor") -> Shape:
        """Return `shape`."""
        return tuple(shape)


@strict_arguments
@attrs.frozen
class PerChannelGranularity(Granularity):
    """One box per index along `axis`; None is the output channels of the weight's op."""

    type_name: ClassVar[str] = "per_channel"

    axis: int | None = attrs.field(default=None, converter=checked(integer(optional=True)))

    def block_shape(self, shape: Shape, name: str = "tensor") -> Shape:
        """Size 1 along the axis, full size along the others."""
        axis = _checked_axis(self, self.axis, shape, name)
        return _replaced(shape, axis, 1)


@strict_arguments
@attrs.frozen
class PerGroupedChannelGranularity(Granularity):
    """One box per `group_size` neighbouring channels: output channels if `axis` is None or 0, input channels if 1.

    On a tensor by itself (`block_shape`), `axis` is an axis of the tensor; on the weight of an op it is a channel
    axis, so that 0 is the output channels of transposed convolutions too: see `weight_block_shape`.
    """

    type_name: ClassVar[str] = "per_grouped_channel"

    axis: int | None = attrs.field(default=None, converter=checked(integer(optional=True)))
    group_size: int = attrs.field(converter=checked(integer(1)), kw_only=True)

    def block_shape(self, shape: Shape, name: str = "tensor") -> Shape:
        """Size `group_size` along the axis, full size along the others. Raises as the base class."""
        axis = _checked_axis(self, self.axis, shape, name)
        _check_divides(name, shape, axis, self.group_size, "group_size")
        return _replaced(shape, axis, self.group_size)


def _block_size(value: Any) -> int | tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, list | tuple) else (value,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            raise SpecError(f"{value!r} is not a positive integer, -1 (the whole axis), or a tuple of these")
    if not sizes:
        raise SpecError("() is not a block size; give one size for each axis")
    return sizes if isinstance(value, list | tuple) else sizes[0]


@strict_arguments
@attrs.frozen
class PerBlockGranularity(Granularity):
    """Boxes of `block_size`: an int along `axis`, or a tuple with one size for each axis. -1 is the whole axis.

    With an int, the box has size 1 along the other channel axis (0 or 1) and full size along kernel axes:
    ``[C_out, C_in, KH, KW]`` with ``axis=1, block_size=32`` gives ``[1, 32, KH, KW]``. Blocks along an axis
    past 1 have size 1 along every other axis. An axis of None is the input channels of the weight's op. With a tuple,
    `axis` has no meaning.
    """

    type_name: ClassVar[str] = "per_block"

    axis: int | None = attrs.field(default=None, converter=checked(integer(optional=True)))
    block_size: int | tuple[int, ...] = attrs.field(converter=checked(_block_size), kw_only=True)

    def block_shape(self, shape: Shape, name: str = "tensor") -> Shape:
        """The box, with -1 replaced by the size of its axis. Raises as the base class."""
        sizes = [shape[axis] if size == -1 else size for axis, size in enumerate(self._sizes(shape, name))]
        for axis, size in enumerate(sizes):
            _check_divides(name, shape, axis, size, "block_size")
        return tuple(sizes)

    def _sizes(self, shape: Shape, name: str) -> Shape:
        if isinstance(self.block_size, tuple):
            if len(self.block_size) != len(shape):
                raise AxisError(f"{name} of shape {shape} needs {len(shape)} block sizes, got {self.block_size}")
            return self.block_size
        axis = _checked_axis(self, self.axis, shape, name)
        whole_from = 2 if axis < 2 else len(shape)
        sizes = [1 if other < whole_from else -1 for other in range(len(shape))]
        sizes[axis] = self.block_size
        return tuple(sizes)


def resolve_block_sizes(tensor_shape: Sequence[int], block_sizes: Sequence[int]) -> list[int]:
    """Return `block_sizes` with -1 replaced by the size of its axis.

    Raises:
        AxisError: if there is not one size for each axis.
        BlockSizeError: when a size does not divide its axis.
    """
    return [*PerBlockGranularity(block_size=tuple(block_sizes)).block_shape(tuple(tensor_shape))]


def _checked_axis(granularity: Granularity, axis: int | None, shape: Shape, name: str) -> int:
    if axis is None:
        raise AxisError(f"{type(granularity).__name__} of {name} has no axis and its op gives no default; give one")
    if not -len(shape) <= axis < len(shape):
        raise AxisError(f"axis {axis} of {granularity} is out of range for {name} of shape {shape}")
    return axis % len(shape)


def _check_divides(name: str, shape: Shape, axis: int, size: int, option: str) -> None:
    if shape[axis] % size:
        raise BlockSizeError(name, tuple(shape), axis, size, option)


def _replaced(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])

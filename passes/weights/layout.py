"""Layout of a palettized weight: channel groups per lookup table, and vectors per entry."""

from __future__ import annotations

from math import prod

import torch
from attrs import frozen
from torch import Tensor

from graphpress.passes.config import (
    BlockSizeError,
    PalettizationSpec,
    PerGroupedChannelGranularity,
    default_channel_axis,
    has_default_axis,
    weight_axis,
    weight_block_shape,
)
from graphpress.passes.weights.errors import PalettizationError

Shape = tuple[int, ...]

# Weights of other ops (recurrent layers, attention in-projections) have their output features first, as linear does.
_OTHERWISE = "linear"


@frozen
class Layout:
    """The division of a weight into tables and entries.

    Attributes:
        shape: the shape of the weight.
        channel_axis: the axis of output channels, along which vectors are laid out.
        group_axis: the axis along which tables change; 0 for a single table.
        tables: the number of tables.
        width: the number of elements per table entry.
    """

    shape: Shape
    channel_axis: int
    group_axis: int
    tables: int
    width: int

    @property
    def index_shape(self) -> Shape:
        """The shape of the indices: the weight's, divided by `width` along the channel axis."""
        return tuple(n // self.width if i == self.channel_axis else n for i, n in enumerate(self.shape))

    @property
    def per_table(self) -> int:
        """The number of indices per table."""
        return prod(self.index_shape) // self.tables

    @property
    def block_counts(self) -> Shape:
        """The leading dims of the lookup table: the number of blocks along each axis."""
        return tuple(self.tables if axis == self.group_axis else 1 for axis in range(len(self.shape)))

    def rows(self, weight: Tensor) -> Tensor:
        """Split a weight by table: [tables, per_table], or [tables, per_table, width] if the width is not 1."""
        if self.width == 1:
            return weight.movedim(self.group_axis, 0).reshape(self.tables, -1)
        count = self.shape[self.channel_axis] // self.width
        vectors = weight.unflatten(self.channel_axis, (count, self.width)).movedim(self.channel_axis + 1, -1)
        return vectors.movedim(self.group_axis, 0).reshape(self.tables, -1, self.width)

    def indices(self, rows: Tensor) -> Tensor:
        """Arrange indices [tables, per_table] in the order of the weight, with `index_shape`."""
        shape = list(self.index_shape)
        moved = [shape.pop(self.group_axis), *shape]
        return rows.reshape(moved).movedim(0, self.group_axis).contiguous()

    def lut(self, tables: Tensor) -> Tensor:
        """Arrange tables [tables, entries] or [tables, entries, width] as ``[b0..bK-1, entries, width]``."""
        return tables.reshape(*self.block_counts, tables.shape[1], self.width).contiguous()


def layout_of(shape: Shape, spec: PalettizationSpec, op_type: str, name: str) -> Layout:
    """Return the layout of a weight of `shape`, read by an op of `op_type`, under `spec`.

    Raises:
        AxisError: if the weight does not have the axis.
        BlockSizeError: if groups or vectors do not divide the channels.
        PalettizationError: if the weight has no axes.
    """
    if not shape:
        raise PalettizationError(f"{name} is a single number; weights with at least one axis can be palettized")
    known = op_type if has_default_axis(op_type) and len(shape) > 1 else _OTHERWISE
    channel_axis = min(default_channel_axis(known), len(shape) - 1)
    width = spec.cluster_dim
    if shape[channel_axis] % width:
        raise BlockSizeError(name, shape, channel_axis, width, "cluster_dim")
    granularity = spec.granularity
    if not isinstance(granularity, PerGroupedChannelGranularity):
        return Layout(shape, channel_axis, 0, 1, width)
    block = weight_block_shape(granularity, shape, known, name)
    axis = (weight_axis(granularity, known) or 0) % len(shape)
    if axis == channel_axis and block[axis] % width:
        raise PalettizationError(
            f"{name}: groups of {block[axis]} channels cannot be cut into vectors of {width}; choose a group_size that "
            f"is a multiple of cluster_dim, or a cluster_dim that divides {block[axis]}"
        )
    return Layout(shape, channel_axis, axis, shape[axis] // block[axis], width)


def channel_magnitudes(weight: Tensor, channel_axis: int) -> Tensor:
    """Return the largest magnitude per output channel (1 for all-zero channels), float32 of the weight's rank."""
    others = [axis for axis in range(weight.ndim) if axis != channel_axis]
    largest = weight.detach().float().abs()
    largest = largest.amax(others, keepdim=True) if others else largest
    return torch.where(largest > 0, largest, torch.ones_like(largest))

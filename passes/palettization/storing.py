"""Tables and indices as a palettized weight stores them: in its dtype or as codes, with scales in its rank."""

from __future__ import annotations

import torch
from torch import Tensor

from graphpress.ir.reference import SCALE_BITS
from graphpress.passes.palettization.entry_grid import EntryGrid, QuantizedTables
from graphpress.passes.palettization.layout import Layout
from graphpress.passes.palettization.weight import PalettizedWeight
from graphpress.passes.specs import PalettizationSpec

# Two scales of so many bits have a product of `SCALE_BITS`, exactly.
HALF_BITS = SCALE_BITS // 2


def entry_grid(spec: PalettizationSpec, dtype: torch.dtype) -> EntryGrid:
    """Where table entries of a weight may lie: with scales per channel in float32, which the scales are applied in."""
    assert spec.lut_qspec is not None
    if spec.enable_per_channel_scale:
        return EntryGrid(spec.lut_qspec, HALF_BITS, torch.float32)
    return EntryGrid(spec.lut_qspec, SCALE_BITS, dtype)


def plain_weight(
    indices: Tensor,
    tables: Tensor,
    channel_scale: Tensor | None,
    spec: PalettizationSpec,
    layout: Layout,
    dtype: torch.dtype,
) -> PalettizedWeight:
    """Indices of `layout.index_shape` into `tables` [tables, entries, width], stored in the weight's dtype."""
    return PalettizedWeight(
        indices, layout.lut(tables.to(dtype)), layout.channel_axis, spec.n_bits, dtype, channel_scale
    )


def quantized_weight(
    indices: Tensor,
    tables: QuantizedTables,
    channel_scale: Tensor | None,
    spec: PalettizationSpec,
    layout: Layout,
    dtype: torch.dtype,
) -> PalettizedWeight:
    """Indices of `layout.index_shape` into tables stored as codes; their scales are multiplied by those of channels."""
    scale = _ranked(tables.scale, layout)
    zero_point = None if tables.zero_point is None else _ranked(tables.zero_point, layout)
    minval = None if tables.minval is None else _ranked(tables.minval, layout)
    if channel_scale is not None:
        scale = scale * channel_scale
        minval = None if minval is None else minval * channel_scale
        zero_point = None if zero_point is None else zero_point.expand(scale.shape).contiguous()
    return PalettizedWeight(
        indices, layout.lut(tables.codes), layout.channel_axis, spec.n_bits, dtype, scale, zero_point, minval
    )


def _ranked(parameters: Tensor, layout: Layout) -> Tensor:
    """Parameters [tables or 1] in the weight's rank: one, or one for each channel along the group axis."""
    shape = [1] * len(layout.shape)
    if len(parameters) > 1:
        shape[layout.group_axis] = layout.shape[layout.group_axis]
        parameters = parameters.repeat_interleave(shape[layout.group_axis] // layout.tables)
    return parameters.reshape(shape)


def per_table(parameters: Tensor, layout: Layout, grid: EntryGrid) -> Tensor:
    """The inverse of `_ranked`: one, or one for each table, of parameters in the weight's rank."""
    if not grid.is_per_table or layout.tables == 1:
        return parameters.reshape(-1)[:1]
    along = parameters.movedim(layout.group_axis, 0).flatten(1)[:, 0]
    return along[:: len(along) // layout.tables] if len(along) > 1 else along

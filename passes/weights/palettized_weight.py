"""A palettized weight, as both backends store it."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.ir.reference import SCALE_BITS
from graphpress.passes.config import PalettizationSpec
from graphpress.passes.weights.layout import Layout
from graphpress.passes.weights.tables import EntryGrid, QuantizedTables

_INDEX_TYPES = {bits: DType.of(f"u{bits}") for bits in (1, 2, 3, 4, 6, 8)}


@frozen(eq=False)
class PalettizedWeight:
    """Indices into lookup tables, with the parameters of the entries.

    Attributes:
        indices: uint8, of the weight's shape, with the dim of `axis` divided by the width of an entry.
        lut: the tables ``[b0..bK-1, 2 ** n_bits, V]``: values of the weight's dtype, or codes of a quantized table,
            which has a `scale`.
        axis: the output channel axis, along which the V values of an entry are laid out.
        n_bits: bits per index.
        dtype: the dtype of the weight.
        scale: float32 of the weight's rank, the factor of every looked-up entry: the scale of a quantized table, of
            each output channel, or their product; None for plain tables.
        zero_point: of quantized entries, float32 of the shape of `scale`; None if it is zero.
        minval: the value of the lowest code, of the shape of `scale`; None with a zero point.
    """

    indices: Tensor
    lut: Tensor
    axis: int
    n_bits: int
    dtype: torch.dtype
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    minval: Tensor | None = None

    @property
    def bits(self) -> int:
        """Bits per index."""
        return self.n_bits

    @property
    def index_type(self) -> DType:
        """Element type of the indices in a saved file."""
        return _INDEX_TYPES[self.n_bits]

    @property
    def lut_type(self) -> DType:
        """Element type of the table entries."""
        return DType.of(self.lut.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        width = self.lut.shape[-1]
        return tuple(n * width if i == self.axis else n for i, n in enumerate(self.indices.shape))

    @property
    def stored_bits(self) -> int:
        """Total bits of indices, tables and scales."""
        parameters = sum(p.numel() * 32 for p in (self.scale, self.minval) if p is not None)
        zeros = 0 if self.zero_point is None else self.zero_point.numel() * self.lut_type.bits
        return self.indices.numel() * self.n_bits + self.lut.numel() * self.lut_type.bits + parameters + zeros

    def dense(self) -> Tensor:
        """Return the dense weight, by the formulas of `graphpress.ir.reference`."""
        looked_up = reference.lut_to_dense(self.indices, self.lut, self.axis)
        if self.scale is None:
            return looked_up
        values = reference.dequantize(looked_up, self.scale, self.zero_point, self.minval, dtype=self.lut_type)
        return values.to(self.dtype)


# The product of two scales with this many bits fits `SCALE_BITS` exactly.
HALF_BITS = SCALE_BITS // 2


def entry_grid(spec: PalettizationSpec, dtype: torch.dtype) -> EntryGrid:
    """Return the grid for table entries of a weight; float32 with per-channel scales, which are applied in float32."""
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
    """Build a weight with plain tables [tables, entries, width] and indices of `layout.index_shape`."""
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
    """Build a weight with quantized tables, whose scales are multiplied by the channel scales."""
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
    """Expand parameters [tables or 1] to the weight's rank: one value, or one per channel along the group axis."""
    shape = [1] * len(layout.shape)
    if len(parameters) > 1:
        shape[layout.group_axis] = layout.shape[layout.group_axis]
        parameters = parameters.repeat_interleave(shape[layout.group_axis] // layout.tables)
    return parameters.reshape(shape)


def per_table(parameters: Tensor, layout: Layout, grid: EntryGrid) -> Tensor:
    """Invert `_ranked`: reduce parameters in the weight's rank to one value, or one per table."""
    if not grid.is_per_table or layout.tables == 1:
        return parameters.reshape(-1)[:1]
    along = parameters.movedim(layout.group_axis, 0).flatten(1)[:, 0]
    return along[:: len(along) // layout.tables] if len(along) > 1 else along

"""A palettized weight, as both backends store it."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir import reference, scales
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.scales import SCALE_BITS
from graphpress.ir.types import TensorType
from graphpress.passes.config import PalettizationSpec, QuantizationFormulation
from graphpress.passes.weights.layout import Layout
from graphpress.passes.weights.prune import is_smaller_sparse
from graphpress.passes.weights.quantize import shifted_and_scaled
from graphpress.passes.weights.stored import StoredWeight, node_name
from graphpress.passes.weights.tables import EntryGrid, QuantizedTables

_INDEX_TYPES = {bits: DType.of(f"u{bits}") for bits in (1, 2, 3, 4, 6, 8)}


@frozen(eq=False)
class PalettizedWeight(StoredWeight):
    """Indices into lookup tables, and what the entries stand for.

    Attributes:
        indices: uint8, the weight's shape but `axis`, which is shorter by the width of an entry.
        lut: the tables ``[b0..bK-1, 2 ** n_bits, V]``: values of the weight's dtype, or codes where `scale` is given
            for a quantized table.
        axis: where the V values of an entry are laid out: the output channels.
        n_bits: bits of an index.
        dtype: of the weight.
        scale: float32 of the weight's rank, what every looked-up entry is multiplied by: the scale of a quantized
            table, of each output channel, or their product; None for plain tables. Stored in the weight's dtype if
            that holds it in full.
        zero_point: of quantized entries, float32 of the shape of `scale`; None where it is zero.
        minval: what the lowest code stands for, as `zero_point`; None where the zero point says it.
        mask: true for the kept elements of a pruned weight, of its shape; None for other weights.
    """

    indices: Tensor
    lut: Tensor
    axis: int
    n_bits: int
    dtype: torch.dtype
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    minval: Tensor | None = None
    mask: Tensor | None = None

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
    def stores_codes(self) -> bool:
        """True if codes take the place of indices and tables: both have 8 bits, and codes need no lookup."""
        return self.scale is not None and self.n_bits == 8 and self.lut_type.bits == 8 and self.lut.shape[-1] == 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        width = self.lut.shape[-1]
        return tuple(n * width if i == self.axis else n for i, n in enumerate(self.indices.shape))

    @property
    def stored_bits(self) -> int:
        """Total bits of indices, or kept ones and their mask, of tables and scales."""
        parameters = sum(8 * p.nbytes for p in (self._stored_scale, self.minval) if p is not None)
        zeros = 0 if self.zero_point is None else self.zero_point.numel() * self.lut_type.bits
        kept = self.kept_indices()
        indices = self.indices.numel() * self.n_bits
        if kept is not None and self.mask is not None:
            indices = kept[0].numel() * self.n_bits + self.mask.numel()
        tables = 0 if self.stores_codes else self.lut.numel() * self.lut_type.bits
        return indices + tables + parameters + zeros

    @property
    def _stored_scale(self) -> Tensor | None:
        if self.scale is None or self.minval is not None:  # which is added in the dtype of the scale
            return self.scale
        return scales.stored_in(DType.of(self.dtype), self.scale)

    def dense(self) -> Tensor:
        """See the base class."""
        return dense_of_parts(self.indices, self.lut, self.axis, self.scale, self.zero_point, self.minval, self.dtype)

    def kept_indices(self) -> tuple[Tensor, Tensor] | None:
        """Indices of kept elements, 1-D, and their table, where that takes less space than all indices; else None.

        What one table gives is put in the places of a mask. With a table for each group, or a zero point, all elements
        have indices, zeros those of an entry that is zero.
        """
        one_table = all(extent == 1 for extent in self.lut.shape[:-2])
        is_symmetric = self.minval is None and (self.zero_point is None or not bool(self.zero_point.any()))
        if self.mask is None or not one_table or not is_symmetric or not is_smaller_sparse(self.mask, self.n_bits):
            return None
        return self.indices[self.mask], self.lut.reshape(1, *self.lut.shape[-2:])

    def expand(self, base: str, before: Node | None, rewriter: Rewriter, mask: Value | None = None) -> Value:
        """See the base class."""
        kept = self.kept_indices()
        indices, table = (self.indices, self.lut) if kept is None else kept
        axis = self.axis if kept is None else 0
        if self.stores_codes:
            dense = rewriter.add_constant(f"{base}_codes", reference.lut_to_dense(indices, table, axis))
        else:
            operands = {
                "indices": rewriter.add_constant(
                    f"{base}_indices", indices, type=TensorType(self.index_type, indices.shape)
                ),
                "lut": rewriter.add_constant(f"{base}_lut", table),
            }
            name = node_name(base, "dense")
            dense = rewriter.insert_before(before, "quant.lut_to_dense", operands, {"axis": axis}, name=name).result
        if kept is not None:
            assert self.mask is not None
            places = {"values": dense, "mask": mask or rewriter.add_constant(f"{base}_mask", self.mask)}
            name = node_name(base, "sparse")
            dense = rewriter.insert_before(before, "quant.sparse_to_dense", places, name=name).result
        if self.scale is None:
            return dense
        parameters = {"scale": self._stored_scale, "zero_point": self.zero_point, "minval": self.minval}
        dtypes = {"dtype": self.lut_type, "output_dtype": DType.of(self.dtype)}
        return shifted_and_scaled(dense, parameters, dtypes, base, "scaled", before, rewriter)


# The product of two scales with this many bits fits `SCALE_BITS` exactly.
HALF_BITS = SCALE_BITS // 2


def entry_grid(spec: PalettizationSpec, dtype: torch.dtype) -> EntryGrid:
    """Return the grid for table entries of a weight; float32 with per-channel scales, which are applied in float32."""
    assert spec.lut_qspec is not None
    if spec.enable_per_channel_scale:
        return EntryGrid(spec.lut_qspec, HALF_BITS, torch.float32)
    is_added = spec.lut_qspec.qformulation is QuantizationFormulation.MINVAL
    bits = SCALE_BITS if is_added else scales.scale_bits(DType.of(dtype))
    return EntryGrid(spec.lut_qspec, bits, dtype)


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


def dense_of_parts(
    indices: Tensor,
    lut: Tensor,
    axis: int,
    scale: Tensor | None,
    zero_point: Tensor | None,
    minval: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return the elements of a `PalettizedWeight` with these parts, by functions that `torch.compile` traces."""
    looked_up = reference.lut_to_dense(indices, lut, axis)
    if scale is None:
        return looked_up
    return reference.dequantize(looked_up, scale, zero_point, minval, dtype=DType.of(lut.dtype)).to(dtype)

"""Trainable parameters of a palettized weight: table entries and channel scales.

The weight is ``w[p] = s[channel(p)] * e[table(p), index(p)]``, so for fixed indices the gradient of an entry is the sum
of the gradients of the elements that look it up (Han, Mao and Dally, arXiv 1510.00149, section 3.3). Rounding of
entries and scales passes gradients through unchanged (straight-through estimator, arXiv 1308.3432).
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir import reference
from graphpress.passes.config import PalettizationSpec
from graphpress.passes.weights.layout import Layout, channel_magnitudes, layout_of
from graphpress.passes.weights.palettized_weight import (
    HALF_BITS,
    PalettizedWeight,
    entry_grid,
    per_table,
    plain_weight,
    quantized_weight,
)
from graphpress.passes.weights.tables import round_up

_FINITE = (torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max / 2)


@frozen(eq=False)
class LearnedTables:
    """The tables of a weight as float32 parameters of an optimizer.

    A scale is ``channel_scale * exp(scale_change)``: scales stay positive, and a step changes each by the same ratio.
    The grid of quantized entries is the one that clustering chose; where entries leave it, it grows around zero.

    Attributes:
        entries: of the shape of the table ``[b0..bK-1, 2 ** n_bits, V]``: dequantized entries, before channel scales.
        channel_scale: the initial scales, of the weight's rank, one per output channel; None without.
        scale_change: of the shape of `channel_scale`, initially zero.
        grid_scale, grid_zero_point, grid_minval: [tables or 1], the initial parameters of quantized entries.
    """

    entries: Tensor
    channel_scale: Tensor | None = None
    scale_change: Tensor | None = None
    grid_scale: Tensor | None = None
    grid_zero_point: Tensor | None = None
    grid_minval: Tensor | None = None

    @classmethod
    def of(cls, weight: PalettizedWeight, tensor: Tensor, spec: PalettizationSpec, op_type: str) -> LearnedTables:
        """Return the initial parameters for `weight`, the palettized form of `tensor`."""
        layout = layout_of(tuple(tensor.shape), spec, op_type, "weight")
        channel_scale = None
        if spec.enable_per_channel_scale:
            channel_scale = round_up(channel_magnitudes(tensor, layout.channel_axis), HALF_BITS)
        change = None if channel_scale is None else torch.zeros_like(channel_scale)
        if spec.lut_qspec is None:
            return cls(weight.lut.float(), channel_scale, change)
        grid = entry_grid(spec, weight.dtype)
        unscaled = [weight.scale, weight.minval]
        if channel_scale is not None:  # product and quotient are exact
            unscaled = [None if each is None else each / channel_scale for each in unscaled]
        scale, minval, zero_point = (
            None if each is None else per_table(each, layout, grid) for each in (*unscaled, weight.zero_point)
        )
        assert scale is not None
        ranked = (None if each is None else each[:, None, None] for each in (scale, zero_point, minval))
        codes = weight.lut.reshape(layout.tables, *weight.lut.shape[-2:])
        low = {} if grid.spec.element_type.is_floating else {"quant_min": int(grid.spec.quant_min)}
        values = reference.dequantize(codes, *ranked, dtype=weight.lut_type, **low)  # type: ignore[arg-type]
        return cls(values.reshape(weight.lut.shape), channel_scale, change, scale, zero_point, minval)

    @property
    def scale(self) -> Tensor | None:
        """Return the current channel scales, rounded where codes are multiplied by them."""
        if self.channel_scale is None or self.scale_change is None:
            return None
        scale = (self.channel_scale * self.scale_change.detach().exp()).clamp(*_FINITE)
        return scale if self.grid_scale is None else round_up(scale, HALF_BITS)

    def stored(self, indices: Tensor, spec: PalettizationSpec, layout: Layout, dtype: torch.dtype) -> PalettizedWeight:
        """Return the weight with these tables and `indices`, of the shape of `layout.index_shape`."""
        tables = self._tables(layout)
        if self.grid_scale is None:
            bounds = torch.finfo(dtype)
            return plain_weight(indices, tables.clamp(bounds.min, bounds.max), self.scale, spec, layout, dtype)
        grid = entry_grid(spec, dtype)
        scale, minval = grid.grown(tables, self.grid_scale, self.grid_minval, self._ends(spec, dtype))
        on_grid = grid.on_grid(tables, scale, self.grid_zero_point, minval)
        return quantized_weight(indices, on_grid, self.scale, spec, layout, dtype)

    def entry_gradient(
        self, gradient: Tensor, indices: Tensor, spec: PalettizationSpec, layout: Layout, dtype: torch.dtype
    ) -> Tensor:
        """Return the gradient of `entries` for `gradient`, which has the weight's shape.

        It is zero where it would move an entry further beyond a fixed grid.
        """
        scaled = gradient.float() if self.scale is None else gradient.float() * self.scale
        count, width = self.entries.shape[-2:]
        chosen = indices.movedim(layout.group_axis, 0).reshape(layout.tables, -1).long()
        chosen = chosen + count * torch.arange(layout.tables, device=chosen.device)[:, None]
        sums = scaled.new_zeros(layout.tables * count, width)
        sums.index_add_(0, chosen.flatten(), layout.rows(scaled).reshape(-1, width))
        if self.grid_scale is not None:
            tables = self._tables(layout).reshape(-1, width)
            low, high = self._reach(spec, layout, dtype)
            sums = sums.masked_fill(((tables > high) & (sums < 0)) | ((tables < low) & (sums > 0)), 0.0)
        return sums.reshape(self.entries.shape)

    def scale_gradient(self, gradient: Tensor, dense: Tensor, layout: Layout) -> Tensor:
        """Return the gradient of `scale_change`, for the dense weight `dense`."""
        others = [axis for axis in range(dense.ndim) if axis != layout.channel_axis]
        product = gradient.float() * dense.float()
        return product.sum(others, keepdim=True) if others else product

    def _tables(self, layout: Layout) -> Tensor:
        return self.entries.detach().reshape(layout.tables, *self.entries.shape[-2:])

    def _ends(self, spec: PalettizationSpec, dtype: torch.dtype) -> Tensor:
        assert self.grid_scale is not None
        return entry_grid(spec, dtype).ends(self.grid_scale, self.grid_zero_point, self.grid_minval)

    def _reach(self, spec: PalettizationSpec, layout: Layout, dtype: torch.dtype) -> Tensor:
        """Return the ends of the grown grid for every entry: [2, tables * entries, 1]."""
        assert self.grid_scale is not None
        grid = entry_grid(spec, dtype)
        tables = self._tables(layout)
        scale, minval = grid.grown(tables, self.grid_scale, self.grid_minval, self._ends(spec, dtype))
        ends = grid.ends(scale, self.grid_zero_point, minval)
        return ends.expand(2, layout.tables, tables.shape[1], 1).reshape(2, -1, 1)

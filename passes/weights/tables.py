"""Quantized lookup tables: grids of entries, and clustering onto a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from graphpress.ir import reference
from graphpress.passes.clustering import OrderedVectors, assign_scalar, assign_vectors
from graphpress.passes.config import PerChannelGranularity, QuantizationScheme, QuantizationSpec

# Range factors of the candidate scales; the first is the plain scale.
_RANGE_FACTORS = (1.0, *(0.7 + 0.01 * step for step in range(30)), *(1.0 + 0.02 * step for step in range(1, 21)))


@frozen(eq=False)
class QuantizedTables:
    """Lookup tables on a quantization grid.

    Attributes:
        codes: [tables, entries, width], in the dtype that holds them.
        values: float32, the dequantized entries, rounded to the weight's dtype.
        scale, zero_point, minval: float32 [tables or 1]; the last two may be None.
    """

    codes: Tensor
    values: Tensor
    scale: Tensor
    zero_point: Tensor | None
    minval: Tensor | None

    def with_zero(self) -> QuantizedTables:
        """Return scalar tables with an additional zero entry, in ascending order.

        Not for tables with a minimum value.
        """
        zero = torch.zeros_like(self.values[:, :1])
        code = zero if self.zero_point is None else zero + self.zero_point.reshape(-1, 1, 1)
        values, order = torch.cat([self.values, zero], 1).sort(1)
        codes = torch.cat([self.codes.float(), code], 1).gather(1, order).to(self.codes.dtype)
        return evolve(self, codes=codes, values=values)


@frozen
class EntryGrid:
    """The quantization of table entries.

    Attributes:
        spec: the spec of the entries; its granularity determines whether every table has its own scale.
        scale_bits: significant bits of a scale.
        dtype: the weight's dtype, to which dequantized values are rounded.
    """

    spec: QuantizationSpec
    scale_bits: int
    dtype: torch.dtype

    @property
    def is_per_table(self) -> bool:
        """True if every table has its own scale."""
        return isinstance(self.spec.granularity, PerChannelGranularity)

    def plain(self, tables: Tensor) -> QuantizedTables:
        """Quantize `tables` [tables, entries, width] on the grid that covers their range."""
        scale, zero_point, minval = (_first(each) for each in self._candidates(tables))
        assert scale is not None
        return self.on_grid(tables, scale, zero_point, minval)

    def best(self, tables: Tensor, masses: Tensor) -> QuantizedTables:
        """Quantize `tables` on the grid of least squared error; `masses` [tables, entries] weight the entries."""
        scale, zero_point, minval = self._candidates(tables)
        snapped = reference.fake_quantize(
            tables.expand(len(scale), *tables.shape), *_ranked(scale, zero_point, minval), **self._codes
        )
        errors = ((snapped - tables).double().square().sum(-1) * masses).sum(-1)
        choice = (errors if self.is_per_table else errors.sum(-1, keepdim=True)).argmin(0)
        chosen = [None if p is None else p.gather(0, choice[None])[0] for p in (scale, zero_point, minval)]
        assert chosen[0] is not None
        quantized = self.on_grid(tables, chosen[0], chosen[1], chosen[2])
        return self._without_repetition(quantized, masses)

    def _candidates(self, tables: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return candidate parameters, each [range_factors, tables or 1]."""
        low, high = tables.flatten(1).aminmax(dim=1)
        if not self.is_per_table:
            low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
        fixed_low, fixed_high = self.spec.float_range
        factor = torch.tensor(_RANGE_FACTORS, dtype=torch.float32)[:, None]
        low = low * factor if fixed_low is None else torch.full_like(low * factor, fixed_low)
        high = high * factor if fixed_high is None else torch.full_like(high * factor, fixed_high)
        scale, zero_point, minval = reference.qparams_from_range(
            low,
            high,
            symmetric=self.spec.qscheme is not QuantizationScheme.ASYMMETRIC,
            formulation=self.spec.qformulation.value,
            **self._codes,
        )
        if self.spec.scale_dtype is not None:
            scale = torch.exp2(scale.log2().ceil())
        return round_up(scale, self.scale_bits), zero_point, minval

    def on_grid(
        self, tables: Tensor, scale: Tensor, zero_point: Tensor | None, minval: Tensor | None
    ) -> QuantizedTables:
        """Quantize `tables` [tables, entries, width] with these parameters, each float32 [tables or 1]."""
        codes = reference.quantize(tables, *_ranked(scale, zero_point, minval), **self._codes)
        return self._quantized(codes, scale, zero_point, minval)

    def _quantized(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, minval: Tensor | None
    ) -> QuantizedTables:
        how = {name: value for name, value in self._codes.items() if name != "quant_max"}
        values = reference.dequantize(codes, *_ranked(scale, zero_point, minval), **how)
        return QuantizedTables(codes, values.to(self.dtype).float(), scale, zero_point, minval)

    def _without_repetition(self, tables: QuantizedTables, masses: Tensor) -> QuantizedTables:
        """Move integer entries with equal codes to unused codes next to the heaviest used ones."""
        if self.spec.element_type.is_floating or tables.codes.shape[-1] != 1:
            return tables
        low, high = int(self.spec.quant_min), int(self.spec.quant_max)
        rows = []
        for codes, mass in zip(tables.codes[..., 0].long(), masses, strict=True):
            used, place = codes.unique(return_inverse=True)
            free = len(codes) - len(used)
            if free:
                weight = torch.zeros(len(used), dtype=mass.dtype).index_add_(0, place, mass)
                unused = torch.arange(low, high + 1)
                unused = unused[~torch.isin(unused, used)]
                nearest = (unused[:, None] - used).abs().min(1)
                near = weight[nearest.indices] / nearest.values
                used = torch.cat([used, unused[near.argsort(descending=True, stable=True)[:free]]]).sort().values
                used = torch.cat([used, used[-1:].expand(len(codes) - len(used))])
                codes = used
            rows.append(codes)
        codes = torch.stack(rows)[..., None].to(tables.codes.dtype)
        return self._quantized(codes, tables.scale, tables.zero_point, tables.minval)

    def grown(self, tables: Tensor, scale: Tensor, minval: Tensor | None, ends: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return scale and minimum of the grid, enlarged to reach the entries beyond its `ends`.

        A grid that reaches all entries, or whose range the spec fixes, is returned unchanged.
        """
        if self.spec.float_range != (None, None):
            return scale, minval
        beyond = torch.where(tables > 0, tables / ends[1].clamp_min(0), tables / ends[0].clamp_max(0))
        beyond = torch.where(torch.isfinite(beyond), beyond, 1.0).flatten(1).amax(1).clamp_min(1.0)
        growth = beyond if self.is_per_table else beyond.amax(0, keepdim=True)
        if self.spec.scale_dtype is not None:
            growth = torch.exp2(growth.log2().ceil())
        return round_up(scale * growth, self.scale_bits), None if minval is None else minval * growth

    def ends(self, scale: Tensor, zero_point: Tensor | None, minval: Tensor | None) -> Tensor:
        """Return the lowest and the highest value on the grid, float32 [2, tables or 1, 1, 1]."""
        dtype = self.spec.element_type
        low, high = (dtype.minimum, dtype.maximum) if dtype.is_floating else (self.spec.quant_min, self.spec.quant_max)
        codes = torch.tensor([low, high], dtype=torch.float32, device=scale.device)[:, None]
        if minval is not None:
            values = (codes - low) * scale + minval
        else:
            values = (codes if zero_point is None else codes - zero_point) * scale
        return values[..., None, None]

    @property
    def _codes(self) -> dict[str, Any]:
        dtype = self.spec.element_type
        if dtype.is_floating:
            return {"dtype": dtype}
        return {"dtype": dtype, "quant_min": int(self.spec.quant_min), "quant_max": int(self.spec.quant_max)}


def round_up(scale: Tensor, bits: int) -> Tensor:
    """Round the positive `scale` up to `bits` significant bits, as float32."""
    mantissa, exponent = torch.frexp(scale.float())
    step = math.ldexp(1.0, bits)
    return torch.ldexp((mantissa * step).ceil() / step, exponent)


def _first(parameters: Tensor | None) -> Tensor | None:
    return None if parameters is None else parameters[0]


def _ranked(
    scale: Tensor, zero_point: Tensor | None, minval: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reshape table parameters to broadcast over entries and width."""
    return (
        scale[..., None, None],
        None if zero_point is None else zero_point[..., None, None],
        None if minval is None else minval[..., None, None],
    )


MOST_STEPS = 4


def scalar_tables(rows: Tensor, entries: int, importance: Tensor | None, grid: EntryGrid) -> QuantizedTables:
    """Fit tables on `grid` to each of `rows` [tables, n], with near-minimal squared error.

    The centroids of the rows are quantized on the best grid; then means and grid are improved alternately, as long as
    the exact error decreases. The result is never worse than the centroids on the grid that covers their range.
    """
    from graphpress.passes.clustering import scalar_kernels  # loads numba

    values = np.ascontiguousarray(rows.float().numpy())
    if importance is None:
        ordered = scalar_kernels.sort_rows(values.view(np.uint32)).view(np.float32)
        weights = np.empty((len(values), 0), np.float32)
    else:
        ordered, weights = values.copy(), importance.float().numpy().copy()
        scalar_kernels.sort_weighted_rows(ordered.view(np.uint32), weights)

    def masses(centroids: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([*map(_row_masses, ordered, weights, centroids)]))

    def error(tables: QuantizedTables) -> float:
        return float(scalar_kernels.error_rows(ordered, weights, tables.values[..., 0].numpy()).sum())

    centroids = scalar_kernels.fit_rows(ordered, weights, entries)
    table = torch.from_numpy(centroids)[..., None]
    best = min((grid.best(table, masses(centroids)), grid.plain(table)), key=error)
    least = error(best)
    for _ in range(MOST_STEPS):
        means = scalar_kernels.mean_rows(ordered, weights, best.values[..., 0].numpy())
        candidate = grid.best(torch.from_numpy(means)[..., None], masses(means))
        found = error(candidate)
        if not found < least:
            break
        best, least = candidate, found
    return best


def vector_tables(vectors: Sequence[OrderedVectors], centroids: Tensor, grid: EntryGrid) -> QuantizedTables:
    """Quantize `centroids` [tables, entries, width] of each table's vectors on `grid`.

    The entries are improved as in `scalar_tables`.
    """

    def assigned(values: Tensor) -> tuple[float, Tensor, Tensor]:
        """Return the error of tables, the masses of their entries, and the means of the vectors nearest to them."""
        found = [each.sums(table.numpy()) for each, table in zip(vectors, values, strict=True)]
        totals = torch.from_numpy(np.stack([sums for _, sums in found]))
        masses = totals[..., -1]
        means = torch.where(masses[..., None] > 0, totals[..., :-1] / masses[..., None], values.double())
        return sum(error for error, _ in found), masses, means.float()

    _, masses, _ = assigned(centroids)
    either = [(assigned(tables.values), tables) for tables in (grid.best(centroids, masses), grid.plain(centroids))]
    (least, masses, means), best = min(either, key=lambda item: item[0][0])
    for _ in range(MOST_STEPS):
        candidate = grid.best(means, masses)
        error, masses, means = assigned(candidate.values)
        if not error < least:
            break
        best, least = candidate, error
    return best


def nearest_entries(rows: Tensor, tables: Tensor) -> Tensor:
    """Return the index of the nearest entry for each of `rows` [tables, n] or [tables, n, width], uint8 [tables, n].

    `tables` [tables, entries, width] are float32.
    """
    if rows.ndim == 2:
        return torch.from_numpy(assign_scalar(rows, tables[..., 0]))
    return torch.stack([torch.from_numpy(assign_vectors(row, table)) for row, table in zip(rows, tables, strict=True)])


def _row_masses(row: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the count or weight of the sorted values nearest to each ascending centroid, float64."""
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    cuts = np.concatenate([[0], np.searchsorted(row, middles), [row.size]])
    if not weights.size:
        return np.diff(cuts).astype(np.float64)
    return np.diff(np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])[cuts])

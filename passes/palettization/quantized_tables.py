"""Clustering onto a grid: tables whose entries are codes, and values assigned to what the codes stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graphpress.passes.clustering import OrderedVectors, assign_scalar, assign_vectors
from graphpress.passes.palettization.entry_grid import EntryGrid, QuantizedTables

MOST_STEPS = 4


def scalar_tables(rows: Tensor, entries: int, importance: Tensor | None, grid: EntryGrid) -> QuantizedTables:
    """Tables on `grid` for each of `rows` [tables, n], near the least squared error.

    The centroids of the rows go onto the grid that suits them best; then means and grid are improved in turn, as long
    as the exact error falls. The result is never worse than the centroids on the grid that covers their range.
    """
    from graphpress.passes.clustering import scalar_kernels as kernels  # loads numba

    values = np.ascontiguousarray(rows.float().numpy())
    if importance is None:
        ordered = kernels.sort_rows(values.view(np.uint32)).view(np.float32)
        weights = np.empty((len(values), 0), np.float32)
    else:
        ordered, weights = values.copy(), importance.float().numpy().copy()
        kernels.sort_weighted_rows(ordered.view(np.uint32), weights)

    def masses(centroids: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([*map(_row_masses, ordered, weights, centroids)]))

    def error(tables: QuantizedTables) -> float:
        return float(kernels.error_rows(ordered, weights, tables.values[..., 0].numpy()).sum())

    centroids = kernels.fit_rows(ordered, weights, entries)
    table = torch.from_numpy(centroids)[..., None]
    best = min((grid.best(table, masses(centroids)), grid.plain(table)), key=error)
    least = error(best)
    for _ in range(MOST_STEPS):
        means = kernels.mean_rows(ordered, weights, best.values[..., 0].numpy())
        candidate = grid.best(torch.from_numpy(means)[..., None], masses(means))
        found = error(candidate)
        if not found < least:
            break
        best, least = candidate, found
    return best


def vector_tables(vectors: Sequence[OrderedVectors], centroids: Tensor, grid: EntryGrid) -> QuantizedTables:
    """`centroids` [tables, entries, width] of the vectors of each table on `grid`, and improved there as above."""

    def assigned(values: Tensor) -> tuple[float, Tensor, Tensor]:
        """The error of tables, the masses of their entries, and the means of what is nearest to them."""
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
    """The index, uint8 [tables, n], of the entry nearest to each of `rows` [tables, n] or [tables, n, width].

    `tables` [tables, entries, width] are float32.
    """
    if rows.ndim == 2:
        return torch.from_numpy(assign_scalar(rows, tables[..., 0]))
    return torch.stack([torch.from_numpy(assign_vectors(row, table)) for row, table in zip(rows, tables, strict=True)])


def _row_masses(row: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """How much of the sorted values is nearest to each of the ascending centroids: float64, their number or weight."""
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    cuts = np.concatenate([[0], np.searchsorted(row, middles), [row.size]])
    if not weights.size:
        return np.diff(cuts).astype(np.float64)
    return np.diff(np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])[cuts])

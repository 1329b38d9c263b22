"""Clustering onto a grid: tables whose entries are codes, and values assigned to what the codes stand for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphpress.passes.clustering import assign_scalar, assign_vectors
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


def vector_tables(rows: Tensor, centroids: Tensor, importance: Tensor | None, grid: EntryGrid) -> QuantizedTables:
    """`centroids` [tables, entries, width] of `rows` [tables, n, width] on `grid`, and improved there as above."""
    weights = torch.ones(rows.shape[:2]) if importance is None else importance.float()

    def assigned(values: Tensor) -> tuple[float, Tensor, Tensor]:
        """The error of tables, the masses of their entries, and the means of what is nearest to them."""
        total, masses, means = 0.0, [], []
        for row, weight, table in zip(rows.float(), weights, values, strict=True):
            nearest = torch.from_numpy(assign_vectors(row, table)).long()
            total += float(((row - table[nearest]).double().square().sum(-1) * weight).sum())
            mass = torch.zeros(len(table)).index_add_(0, nearest, weight)
            sums = torch.zeros_like(table).index_add_(0, nearest, row * weight[:, None])
            means.append(torch.where(mass[:, None] > 0, sums / mass.clamp(min=1e-38)[:, None], table))
            masses.append(mass)
        return total, torch.stack(masses).double(), torch.stack(means)

    _, masses, _ = assigned(centroids)
    found = [(assigned(tables.values), tables) for tables in (grid.best(centroids, masses), grid.plain(centroids))]
    (least, masses, means), best = min(found, key=lambda item: item[0][0])
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

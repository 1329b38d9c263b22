"""Kernels over groups: each row of a matrix is sorted, fitted and assigned by itself."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import kernel
from graphpress.passes.clustering.fit import fit_table, nearest_means, table_error
from graphpress.passes.clustering.sorted_values import summarize
from graphpress.passes.clustering.sorting import ordered, sort_in_buckets, sort_pairs, sort_values, unordered
from graphpress.passes.clustering.thresholds import assign_row

# From so many values in a row on, a second copy of them is worth saving, and no longer fits the cache.
LEAST_IN_BUCKETS = 1 << 18


@kernel
def sort_rows(bits: np.ndarray) -> np.ndarray:
    """Return each row of floats in ascending order; bits as uint32 [groups, n] in and out."""
    groups, size = bits.shape
    out = np.empty((groups, size), np.uint32)
    if size >= LEAST_IN_BUCKETS:
        for group in range(groups):
            sort_in_buckets(bits[group], out[group])
        return out
    scratch = np.empty(size, np.uint32)
    for group in range(groups):
        sort_values(bits[group], out[group], scratch)
    return out


@kernel
def sort_weighted_rows(bits: np.ndarray, weights: np.ndarray) -> None:
    """Sort each row of `bits` in place, and its float32 `weights` with it.

    Where all weights of a row are zero, they become ones.
    """
    groups, size = bits.shape
    for group in range(groups):
        row, row_weights = bits[group], weights[group]
        for place in range(size):
            row[place] = ordered(row[place])
        sort_pairs(row, row_weights)
        weightless = True
        for place in range(size):
            row[place] = unordered(row[place])
            weightless = weightless and row_weights[place] == 0.0
        if weightless:
            row_weights[:] = 1.0


@kernel
def fit_rows(values: np.ndarray, weights: np.ndarray, clusters: int) -> np.ndarray:
    """Return the tables, float32 [groups, clusters], of sorted rows; `weights` [groups, n], or [groups, 0]."""
    centroids = np.empty((values.shape[0], clusters), np.float32)
    for group in range(values.shape[0]):
        fit_table(summarize(values[group], weights[group]), centroids[group])
    return centroids


@kernel
def mean_rows(values: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return for each centroid the mean of the sorted values nearest to it, or itself where there are none."""
    means = np.empty_like(centroids)
    for group in range(values.shape[0]):
        nearest_means(summarize(values[group], weights[group]), centroids[group], means[group])
    return means


@kernel
def error_rows(values: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the squared error of each sorted row against its table, float64 [groups]."""
    errors = np.empty(values.shape[0])
    for group in range(values.shape[0]):
        errors[group] = table_error(values[group], weights[group], centroids[group])
    return errors


@kernel
def assign_rows(values: np.ndarray, bits: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the label of the centroid nearest to each value, uint8 [groups, n]; centroids ascend."""
    indices = np.empty(values.shape, np.uint8)
    for group in range(values.shape[0]):
        assign_row(values[group], bits[group], centroids[group], labels[group], indices[group])
    return indices

"""Kernels over groups of scalars: sorting, fitting and assignment."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import kernel
from graphpress.passes.clustering.fit import fit_table, nearest_means, table_error
from graphpress.passes.clustering.sorted_values import summarize
from graphpress.passes.clustering.sorting import ordered, sort_in_buckets, sort_pairs, sort_values, unordered
from graphpress.passes.clustering.thresholds import assign_row

# For rows at least this long, a second copy would no longer fit the cache.
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
    """Sort each row of `bits` in place, together with its float32 `weights`.

    If all weights of a row are zero, they are set to one.
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
    """Return the mean of the sorted values nearest to each centroid, or the centroid itself if there are none."""
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


CODES = 1 << 16
# The largest exact count in float32; larger counts are split.
MOST_COUNT = np.int64(1 << 24)


@kernel
def count_rows(
    codes: np.ndarray, weights: np.ndarray, order: np.ndarray, decoded: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the distinct values of each row in ascending order and their weights, float32 [groups, longest] each.

    `codes` are uint16 [groups, n], `weights` float32 [groups, n] or [groups, 0], `order` the codes of finite values in
    ascending order of value, uint16 [m], and `decoded` the value of each code, float32 [65536]. The weight of a value
    is the sum of its weights, or its count if there are no weights or all are zero. Rows are padded with their last
    value, with weight zero. Also returns the number of non-finite values.
    """
    groups, size = codes.shape
    values = np.empty((groups, CODES + size // MOST_COUNT), np.float32)
    masses = np.empty((groups, CODES + size // MOST_COUNT), np.float32)
    lengths = np.empty(groups, np.int64)
    counts = np.empty(CODES, np.int64)
    sums = np.empty(CODES)
    bad = 0
    longest = np.int64(1)
    for group in range(groups):
        for code in range(CODES):
            counts[code] = 0
            sums[code] = 0.0
        for place in range(size):
            counts[codes[group, place]] += 1
        total = 0.0
        for place in range(weights.shape[1]):
            weight = np.float64(weights[group, place])
            sums[codes[group, place]] += weight
            total += weight
        length = np.int64(0)
        found = np.int64(0)
        for rank in range(order.size):
            code = order[rank]
            count = counts[code]
            found += count
            while count > 0:
                part = min(count, MOST_COUNT)
                values[group, length] = decoded[code]
                masses[group, length] = sums[code] * (part / counts[code]) if total > 0.0 else np.float64(part)
                length += 1
                count -= part
        bad += size - found
        lengths[group] = length
        longest = max(longest, length)
    for group in range(groups):
        for place in range(max(lengths[group], 1), longest):
            values[group, place] = values[group, place - 1]
            masses[group, place] = 0.0
    return values[:, :longest].copy(), masses[:, :longest].copy(), bad


@kernel
def look_up_rows(codes: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Return ``tables[group, code]`` for each of the uint16 `codes` [groups, n]; uint8."""
    indices = np.empty(codes.shape, np.uint8)
    for group in range(codes.shape[0]):
        for place in range(codes.shape[1]):
            indices[group, place] = tables[group, codes[group, place]]
    return indices

"""Kernels for values of 16 bits, of which there are at most 65,536: they are counted rather than sorted."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import kernel

CODES = 1 << 16
# A float32 counts no further exactly; larger counts are split.
MOST_COUNT = np.int64(1 << 24)


@kernel
def count_rows(
    codes: np.ndarray, weights: np.ndarray, order: np.ndarray, decoded: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the distinct values of each row in ascending order and their weights, float32 [groups, longest] each.

    `codes` are uint16 [groups, n], `weights` float32 [groups, n] or [groups, 0], `order` the codes of finite values in
    ascending order, uint16 [m], and `decoded` the value of each code, float32 [65536]. A weight is the sum of the
    weights of a value, or the count of it where there are no weights or all are zero. Rows are filled up with their
    last value, without weight. Also returns how many values are not finite.
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

"""Kernels that assign values to their nearest centroids exactly, at a few cycles per value.

The threshold between two neighbouring centroids is the largest float32 that belongs to the lower one. A lookup table
over the leading bits of a value's ordered key gives a lower bound of the number of thresholds below it; one comparison
completes it, or a loop where thresholds are dense.
"""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper
from graphpress.passes.clustering.sorting import ordered

MOST_CELLS = 1 << 16


@helper
def threshold_between(lower: np.float32, upper: np.float32, tie_goes_up: bool) -> np.float32:
    """Return the largest float32 that is nearer to `lower` than to `upper`, with lower < upper.

    The midpoint belongs to `lower`, unless `tie_goes_up`.
    """
    low, high = np.float64(lower), np.float64(upper)
    total = low + high
    part = total - low
    rest = (low - (total - part)) + (high - part)  # the rounding error of the sum (Knuth's two-sum)
    middle = 0.5 * total
    threshold = np.float32(middle)
    rounded = np.float64(threshold)
    if rounded > middle or (rounded == middle and (rest < 0.0 or (tie_goes_up and rest == 0.0))):
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    return threshold + np.float32(0.0)  # avoids -0.0, whose key is below that of 0.0


@helper
def distinct_thresholds(centroids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the thresholds between distinct centroids, then infinity, and the label of each distinct centroid.

    `centroids` ascend, float32 [k]; `labels` are uint8 [k]. Equal centroids get the lowest of their labels, and the
    midpoint of two centroids goes to the one with the lower label.
    """
    thresholds = np.empty(centroids.size, np.float32)
    names = np.empty(centroids.size, np.uint8)
    distinct = 0
    for place in range(centroids.size):
        if distinct > 0 and centroids[place] == centroids[place - 1]:
            names[distinct - 1] = min(names[distinct - 1], labels[place])
        else:
            thresholds[distinct] = centroids[place]
            names[distinct] = labels[place]
            distinct += 1
    for rank in range(distinct - 1):
        thresholds[rank] = threshold_between(thresholds[rank], thresholds[rank + 1], names[rank + 1] < names[rank])
    thresholds[distinct - 1] = np.inf
    return thresholds[:distinct], names[:distinct]


@helper
def assign_row(
    values: np.ndarray, bits: np.ndarray, centroids: np.ndarray, labels: np.ndarray, indices: np.ndarray
) -> None:
    """Write the label of the nearest centroid of each value into `indices`, uint8 [n].

    `values` are finite float32 [n] and `bits` the same memory as uint32.
    """
    thresholds, names = distinct_thresholds(centroids, labels)
    last = thresholds.size - 1
    if last == 0:
        for place in range(values.size):
            indices[place] = names[0]
        return
    keys = np.empty(last, np.uint32)
    thresholds_bits = thresholds.view(np.uint32)
    for rank in range(last):
        keys[rank] = ordered(thresholds_bits[rank])
    base, top = keys[0], keys[last - 1]
    cells_wanted = min(MOST_CELLS, 4 * values.size)
    shift = np.uint32(0)
    while ((top - base) >> shift) + 1 >= cells_wanted:
        shift += np.uint32(1)
    ranks = np.empty(((top - base) >> shift) + 1, np.uint8)
    start = 0
    crowded = False
    for rank in range(last):
        cell = (keys[rank] - base) >> shift
        if rank and cell < start:
            crowded = True
        for filled in range(start, cell + 1):
            ranks[filled] = rank
        start = cell + 1
    if crowded:
        for place in range(values.size):
            value = values[place]
            key = min(max(ordered(bits[place]), base), top)
            rank = ranks[(key - base) >> shift]
            while value > thresholds[rank]:
                rank += 1
            indices[place] = names[rank]
    else:
        for place in range(values.size):
            key = min(max(ordered(bits[place]), base), top)
            rank = ranks[(key - base) >> shift]
            indices[place] = names[rank + (values[place] > thresholds[rank])]

"""Kernels that compress sorted values into a few hundred micro-bins, the points of the dynamic program."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper
from graphpress.passes.clustering.sorted_values import NO_PLACE, SortedValues, first_above, sums_of

# Coarse bins are found one by one, so they adapt to gaps and clumps; each is then cut into about so many.
REFINEMENT = 4


@helper
def micro_bins(data: SortedValues, wanted: int) -> np.ndarray:
    """Cut the sorted values into about `wanted` bins, in proportion to the clusters they will be part of.

    At high resolution the cells of an optimal quantizer have equal mass times cubed width, and their density goes
    with the cube root of mass times squared width (Panter and Dite, 1951). Coarse bins are cut evenly in proportion
    to it. Few distinct values are told apart exactly.

    Returns the edges as places in the sorted values, int64 [bins + 1].
    """
    coarse = coarse_bins(data, max(wanted // REFINEMENT, 1))
    bins = coarse.size - 1
    shares = np.empty(bins)
    total = 0.0
    for place in range(bins):
        shares[place] = spread(data, coarse[place], coarse[place + 1]) ** (1 / 3)
        total += shares[place]
    edges = np.empty(bins + wanted + 1, np.int64)
    edges[0] = 0
    filled = 1
    for place in range(bins):
        low, high = coarse[place], coarse[place + 1]
        parts = 1
        if shares[place] > 0.0:
            parts = max(int(wanted * shares[place] / total + 0.5), 1)
        start = np.float64(data.values[low])
        width = np.float64(data.values[high - 1]) - start
        for part in range(1, parts):
            cut = first_above(data.values, start + width * (part / parts), low, high)
            if cut > edges[filled - 1]:
                edges[filled] = cut
                filled += 1
        edges[filled] = high
        filled += 1
    return edges[:filled]


@helper
def coarse_bins(data: SortedValues, most: int) -> np.ndarray:
    """Cut the sorted values into at most `most` bins of about equal mass times squared width; return the edges.

    The bin with the largest product is split at the middle of its range until there are enough; a bin of one value is
    never split, so few distinct values are told apart exactly, and a bin shrinks to the values it holds, so gaps and
    outliers cost one split each.
    """
    size = data.values.size
    lows = np.empty(most, np.int64)
    highs = np.empty(most, np.int64)
    following = np.empty(most, np.int64)
    keys = np.empty(most)
    heap = np.empty(most, np.int64)
    lows[0], highs[0], following[0], heap[0] = 0, size, -1, 0
    keys[0] = spread(data, NO_PLACE, size)
    bins = NO_PLACE + 1
    while bins < most:
        top = heap[0]
        if not keys[top] > 0.0:
            break
        low, high = lows[top], highs[top]
        middle = 0.5 * (np.float64(data.values[low]) + np.float64(data.values[high - 1]))
        cut = first_above(data.values, middle, low, high)
        lows[bins], highs[bins] = cut, high
        highs[top] = cut
        following[bins] = following[top]
        following[top] = bins
        keys[top] = spread(data, low, cut)
        keys[bins] = spread(data, cut, high)
        sift_down(heap, keys, bins)
        heap[bins] = bins
        sift_up(heap, keys, bins)
        bins += 1
    edges = np.empty(bins + 1, np.int64)
    current = 0
    for place in range(bins):
        edges[place] = lows[current]
        current = following[current]
    edges[bins] = size
    return edges


@helper
def spread(data: SortedValues, low: int, high: int) -> float:
    """Return mass times squared width of the bin ``[low, high)``."""
    width = np.float64(data.values[high - 1]) - np.float64(data.values[low])
    if width == 0.0:
        return 0.0
    if data.weights.size:
        mass, _ = sums_of(data, low, high)
        return mass * width * width
    return np.float64(high - low) * width * width


@helper
def sift_down(heap: np.ndarray, keys: np.ndarray, size: int) -> None:
    """Restore the order of a max-heap of `size` whose top has changed."""
    place = 0
    moving = heap[0]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and keys[heap[child + 1]] > keys[heap[child]]:
            child += 1
        if keys[heap[child]] <= keys[moving]:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = moving


@helper
def sift_up(heap: np.ndarray, keys: np.ndarray, place: int) -> None:
    """Restore the order of a max-heap whose last entry, at `place`, is new."""
    moving = heap[place]
    while place > 0:
        parent = (place - 1) >> 1
        if keys[heap[parent]] >= keys[moving]:
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = moving

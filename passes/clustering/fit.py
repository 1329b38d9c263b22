"""Kernels that fit the lookup table of one group of sorted values."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper
from graphpress.passes.clustering.partition import best_cuts, refine
from graphpress.passes.clustering.sorted_values import (
    NO_PLACE,
    SortedValues,
    first_above,
    mass_and_mean,
    squared_error,
    sums_of,
)
from graphpress.passes.clustering.thresholds import threshold_between

# The minimum and maximum number of micro-bins; in between, a number for which the dynamic program costs about as much
# as the sort.
LEAST, LEAST_PER_CLUSTER, LEAST_MORE = 640, 8, 256
MOST_PER_CLUSTER, MOST_MORE = 16, 4096
FEWEST_VALUES_PER_BIN, MOST_VALUES_PER_BIN = 8, 64
ENOUGH = 2048  # for few clusters: above it, one bin per two values
MOST_STEPS = 16


@helper
def fit_table(data: SortedValues, centroids: np.ndarray) -> None:
    """Write near-optimal centroids of the sorted values into `centroids`, float32 [k], ascending."""
    clusters = centroids.size
    bounds = micro_bins(data, bins_wanted(data.values.size, clusters))
    masses = np.empty(bounds.size)
    means = np.empty(bounds.size)
    bins = np.int64(0)
    for place in range(bounds.size - 1):
        masses[bins], means[bins] = mass_and_mean(data, bounds[place], bounds[place + 1])
        if masses[bins] > 0.0:  # values without weight join the previous bin
            bounds[bins] = bounds[place]
            bins += 1
    bounds[0] = 0
    bounds[bins] = data.values.size
    bounds = bounds[: bins + 1]
    if bins > clusters:
        cuts, sound = best_cuts(masses[:bins], means[:bins], clusters)
        for bound in range(clusters + 1):
            bounds[bound] = bounds[cuts[bound]]
        bounds = bounds[: clusters + 1]
        if sound:
            refine(data, bounds)
        lloyd_steps(data, bounds)
    for cluster in range(clusters):
        run = min(cluster, bounds.size - 2)
        _, mean = mass_and_mean(data, bounds[run], bounds[run + 1])
        centroids[cluster] = np.float32(mean)


@helper
def bins_wanted(size: int, clusters: int) -> int:
    """Return the number of micro-bins for `size` values and `clusters` clusters."""
    least = max(LEAST, LEAST_PER_CLUSTER * clusters + LEAST_MORE)
    most = MOST_PER_CLUSTER * clusters + MOST_MORE
    values_per_bin = min(max(FEWEST_VALUES_PER_BIN, clusters // 2), MOST_VALUES_PER_BIN)
    bins = size // values_per_bin
    if bins > ENOUGH:
        bins = max(size // max(2 * FEWEST_VALUES_PER_BIN, values_per_bin), ENOUGH)
    return min(max(bins, least), most)


@helper
def lloyd_steps(data: SortedValues, bounds: np.ndarray) -> None:
    """Move the inner `bounds`, places in the sorted values, to the middles between neighbouring means, in place."""
    clusters = bounds.size - 1
    means = np.empty(clusters)
    for _ in range(MOST_STEPS):
        for cluster in range(clusters):
            _, means[cluster] = mass_and_mean(data, bounds[cluster], bounds[cluster + 1])
        moved = False
        for cluster in range(1, clusters):
            middle = 0.5 * means[cluster - 1] + 0.5 * means[cluster]
            place = first_above(data.values, middle, bounds[cluster - 1] + 1, bounds[cluster + 1] - 1)
            if place != bounds[cluster]:
                bounds[cluster] = place
                moved = True
        if not moved:
            break


@helper
def nearest_end(values: np.ndarray, centroids: np.ndarray, cluster: int, start: int) -> int:
    """Return the end of the run of sorted values from `start` whose nearest centroid is ``centroids[cluster]``."""
    if cluster + 1 == centroids.size:
        return values.size
    if centroids[cluster] == centroids[cluster + 1]:
        return start
    threshold = threshold_between(centroids[cluster], centroids[cluster + 1], cluster < 0)
    return first_above(values, np.float64(threshold), start, values.size)


@helper
def nearest_means(data: SortedValues, centroids: np.ndarray, means: np.ndarray) -> None:
    """Write the mean of the values nearest to each ascending centroid, or the centroid itself if there are none."""
    start = NO_PLACE
    for cluster in range(centroids.size):
        end = nearest_end(data.values, centroids, cluster, start)
        means[cluster] = centroids[cluster]
        if end > start:
            _, mean = mass_and_mean(data, start, end)
            means[cluster] = np.float32(mean)
        start = end


@helper
def table_error(values: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> float:
    """Return the squared error of the sorted values against their nearest ascending centroid."""
    start = NO_PLACE
    total = 0.0
    for cluster in range(centroids.size):
        end = nearest_end(values, centroids, cluster, start)
        total += squared_error(values, weights, start, end, np.float64(centroids[cluster]))
        start = end
    return total


# Coarse bins are split one by one, so they adapt to gaps and clumps; each is then cut into about this many.
REFINEMENT = 4


@helper
def micro_bins(data: SortedValues, wanted: int) -> np.ndarray:
    """Cut the sorted values into about `wanted` bins, distributed like the cells of an optimal quantizer.

    At high resolution the cells of an optimal quantizer have equal mass times cubed width, and their density is
    proportional to the cube root of mass times squared width (Panter and Dite, 1951). Coarse bins are divided in
    proportion to it. A small number of distinct values is resolved exactly.

    Returns the edges as positions in the sorted values, int64 [bins + 1].
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
    """Cut the sorted values into at most `most` bins of about equal mass times squared width, and return the edges.

    The bin with the largest product is split at the middle of its range until there are enough. Bins of one value are
    not split, so a small number of distinct values is resolved exactly; bins shrink to the values they hold, so gaps
    and outliers cost one split each.
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
    """Restore the heap order after a change of the top of a max-heap of `size`."""
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
    """Restore the heap order after an insertion at the end, `place`, of a max-heap."""
    moving = heap[place]
    while place > 0:
        parent = (place - 1) >> 1
        if keys[heap[parent]] >= keys[moving]:
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = moving

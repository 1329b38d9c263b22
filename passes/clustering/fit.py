"""Kernels that find the table of one group of sorted values: dynamic program, then Lloyd steps."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper
from graphpress.passes.clustering.micro_bins import micro_bins
from graphpress.passes.clustering.partition import best_cuts
from graphpress.passes.clustering.refinement import refine
from graphpress.passes.clustering.sorted_values import NO_PLACE, SortedValues, first_above, mass_and_mean, squared_error
from graphpress.passes.clustering.thresholds import threshold_between

# Micro-bins, at least and at most; between, one for so many values that the dynamic program costs about as much as the
# sort did.
LEAST, LEAST_PER_CLUSTER, LEAST_MORE = 640, 8, 256
MOST_PER_CLUSTER, MOST_MORE = 16, 4096
FEWEST_VALUES_PER_BIN, MOST_VALUES_PER_BIN = 8, 64
ENOUGH = 2048  # for few clusters: from there on, a bin for twice as many values
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
        if masses[bins] > 0.0:  # what has no weight goes with the bin before
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
    """Return how many micro-bins `size` values for so many clusters are worth."""
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
    """Return the end of the run of sorted values from `start` that are nearest to ``centroids[cluster]``."""
    if cluster + 1 == centroids.size:
        return values.size
    if centroids[cluster] == centroids[cluster + 1]:
        return start
    threshold = threshold_between(centroids[cluster], centroids[cluster + 1], cluster < 0)
    return first_above(values, np.float64(threshold), start, values.size)


@helper
def nearest_means(data: SortedValues, centroids: np.ndarray, means: np.ndarray) -> None:
    """Write the mean of the sorted values nearest to each of the ascending centroids, or it where there are none."""
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
    """Return the squared error of the sorted values against their nearest of the ascending `centroids`."""
    start = NO_PLACE
    total = 0.0
    for cluster in range(centroids.size):
        end = nearest_end(values, centroids, cluster, start)
        total += squared_error(values, weights, start, end, np.float64(centroids[cluster]))
        start = end
    return total

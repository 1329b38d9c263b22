"""Kernels that find the table of one group of sorted values: dynamic program, then Lloyd steps."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper
from graphpress.passes.clustering.micro_bins import micro_bins
from graphpress.passes.clustering.partition import best_cuts
from graphpress.passes.clustering.refinement import refine
from graphpress.passes.clustering.sorted_values import NO_PLACE, first_above, mean_of, squared_error, sums_of
from graphpress.passes.clustering.thresholds import threshold_between

BINS_PER_CLUSTER = 24
LEAST_BINS = 256
MOST_STEPS = 16


@helper
def fit_table(data, centroids):
    """Write near-optimal centroids of the sorted values into `centroids`, float32 [k], ascending."""
    clusters = centroids.size
    bounds = micro_bins(data, max(BINS_PER_CLUSTER * clusters, LEAST_BINS))
    bins = bounds.size - 1
    if bins > clusters:
        masses = np.empty(bins)
        means = np.empty(bins)
        for place in range(bins):
            masses[place], _ = sums_of(data, bounds[place], bounds[place + 1])
            means[place] = mean_of(data, bounds[place], bounds[place + 1])
        cuts, sound = best_cuts(masses, means, clusters)
        for bound in range(clusters + 1):
            bounds[bound] = bounds[cuts[bound]]
        bounds = bounds[: clusters + 1]
        if sound:
            refine(data, bounds)
        lloyd_steps(data, bounds)
    for cluster in range(clusters):
        run = min(cluster, bounds.size - 2)
        centroids[cluster] = np.float32(mean_of(data, bounds[run], bounds[run + 1]))


@helper
def lloyd_steps(data, bounds):
    """Move the inner `bounds`, places in the sorted values, to the middles between neighbouring means, in place."""
    clusters = bounds.size - 1
    means = np.empty(clusters)
    for _ in range(MOST_STEPS):
        for cluster in range(clusters):
            means[cluster] = mean_of(data, bounds[cluster], bounds[cluster + 1])
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
def nearest_end(values, centroids, cluster, start):
    """Return the end of the run of sorted values from `start` that are nearest to ``centroids[cluster]``."""
    if cluster + 1 == centroids.size:
        return values.size
    if centroids[cluster] == centroids[cluster + 1]:
        return start
    threshold = threshold_between(centroids[cluster], centroids[cluster + 1], cluster < 0)
    return first_above(values, np.float64(threshold), start, values.size)


@helper
def nearest_means(data, centroids, means):
    """Write the mean of the sorted values nearest to each of the ascending centroids, or it where there are none."""
    start = NO_PLACE
    for cluster in range(centroids.size):
        end = nearest_end(data.values, centroids, cluster, start)
        means[cluster] = centroids[cluster]
        if end > start:
            means[cluster] = np.float32(mean_of(data, start, end))
        start = end


@helper
def table_error(values, weights, centroids):
    """Return the squared error of the sorted values against their nearest of the ascending `centroids`."""
    start = NO_PLACE
    total = 0.0
    for cluster in range(centroids.size):
        end = nearest_end(values, centroids, cluster, start)
        total += squared_error(values, weights, start, end, np.float64(centroids[cluster]))
        start = end
    return total

"""Kernels of the exact dynamic program: the best cut of sorted weighted points into k runs."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import kernel

# Below this share of the points' second moment, rounding in the moments shows in the costs of runs.
SOUND_SHARE = 1e-8


@kernel
def best_cuts(masses, means, clusters):
    """Cut points, ascending in `means`, into `clusters` non-empty runs of least squared error.

    Layer by layer over the number of runs; the cost obeys the quadrangle inequality, so the best last cut grows
    with the end of the range and with the number of runs, and each layer costs about n log n (Wu, 1991; Groenlund
    et al., "Fast exact k-means, k-medians and Bregman divergence clustering in 1D", 2017).

    Returns the cuts, int64 [clusters + 1], from 0 to the number of points, which is at least `clusters`.
    """
    size = masses.size
    mass = np.zeros(size + 1)
    first = np.zeros(size + 1)
    for point in range(size):
        mass[point + 1] = mass[point] + masses[point]
        first[point + 1] = first[point] + masses[point] * means[point]
    center = first[size] / mass[size]
    second = 0.0
    for point in range(size):
        offset = means[point] - center
        first[point + 1] = first[point] + masses[point] * offset
        second += masses[point] * offset * offset
    no_table = np.zeros((0, 0))
    cuts, gain = layered_cuts(mass, first, no_table, clusters)
    if second + gain > SOUND_SHARE * second:
        return cuts
    cuts, gain = layered_cuts(mass, first, run_errors(masses, means), clusters)
    return cuts


@kernel
def layered_cuts(mass, first, table, clusters):
    """Run the program on prefix moments, or on the table of run errors if there is one.

    Without a table the cost of a run is its squared error less its second moment, which is the same in sum.
    Returns the cuts and the least total cost.
    """
    size = mass.size - 1
    previous = np.empty(size + 1)
    current = np.empty(size + 1)
    last_cut = np.zeros((clusters + 1, size + 1), np.int32)
    for end in range(1, size + 1):
        current[end] = run_cost(mass, first, table, 0, end)
    for layer in range(2, clusters + 1):
        previous, current = current, previous
        begin = layer
        count = size - clusters + 1
        half = 1
        while half < count:
            half *= 2
        while half >= 1:
            for offset in range(half - 1, count, 2 * half):
                end = begin + offset
                low = layer - 1
                high = end - 1
                if offset >= half:
                    low = last_cut[layer, end - half]
                if offset + half < count:
                    high = min(high, last_cut[layer, end + half])
                if offset + 1 < count:
                    low = max(low, last_cut[layer - 1, end])
                best = np.inf
                best_cut = low
                for cut in range(low, high + 1):
                    cost = previous[cut] + run_cost(mass, first, table, cut, end)
                    if cost < best:
                        best = cost
                        best_cut = cut
                current[end] = best
                last_cut[layer, end] = best_cut
            half //= 2
    cuts = np.empty(clusters + 1, np.int64)
    cuts[clusters] = size
    for layer in range(clusters, 0, -1):
        cuts[layer - 1] = last_cut[layer, cuts[layer]]
    return cuts, current[size]


@kernel
def run_cost(mass, first, table, low, high):
    """Return the cost of the run ``[low, high)``."""
    if table.size:
        return table[low, high]
    weight = mass[high] - mass[low]
    moment = first[high] - first[low]
    if weight > 0.0:
        return -(moment * moment) / weight
    return 0.0


@kernel
def run_errors(masses, means):
    """Return the squared error of every run of points, float64 [n + 1, n + 1].

    Each run grows downwards one point at a time by the update of Chan, Golub and LeVeque (1979), a sum of positive
    terms: tight clumps far from each other keep their small errors.
    """
    size = masses.size
    table = np.zeros((size + 1, size + 1))
    for end in range(1, size + 1):
        weight = masses[end - 1]
        mean = means[end - 1]
        error = 0.0
        for start in range(end - 2, -1, -1):
            grown = weight + masses[start]
            if grown > 0.0:
                distance = means[start] - mean
                share = masses[start] / grown
                error += distance * distance * weight * share
                mean += distance * share
                weight = grown
            table[start, end] = error
    return table

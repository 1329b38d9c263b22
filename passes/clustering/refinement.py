"""Kernels that improve all bounds of the clusters jointly, at places between the micro-bins."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper
from graphpress.passes.clustering.sorted_values import NO_PLACE, SortedValues, sums_below

# Candidates on each side of a bound, and how far the outermost lies, as a share of the cluster there. A few bounds can
# afford more of both, and are nearer to the optimum for it.
FEW = 16
WIDE, NARROW = 8, 3
SPANS = (0.9, 0.9, 0.5, 0.5, 0.25, 0.125, 0.06, 0.03)
WIDE_SPANS = 2  # how many of them only a few bounds have


@helper
def refine(data: SortedValues, bounds: np.ndarray) -> None:
    """Move the inner `bounds`, int64 places in the sorted values, to lower the error, in place.

    In each round every bound has a few candidates about its place, and a dynamic program chooses among all their
    combinations at once; Lloyd steps would take a number of rounds that grows with the square of that of the clusters.
    Rounds go from coarse to fine.
    """
    clusters = bounds.size - 1
    radius = WIDE if clusters <= FEW else NARROW
    width = 2 * radius + 1
    places = np.empty((clusters + 1, width), np.int64)
    mass = np.empty((clusters + 1, width))
    first = np.empty((clusters + 1, width))
    low_mass, low_moment = sums_below(data, NO_PLACE)
    high_mass, high_moment = sums_below(data, data.values.size)
    total = high_mass - low_mass
    center = (high_moment - low_moment) / total
    for turn in range(0 if clusters <= FEW else WIDE_SPANS, len(SPANS)):
        span = SPANS[turn]
        for bound in range(clusters + 1):
            for candidate in range(width):
                place = bounds[bound]
                if 0 < bound < clusters:
                    side = bound - 1 if candidate < radius else bound
                    step = (bounds[side + 1] - bounds[side]) * span / radius
                    place += int((candidate - radius) * step)
                places[bound, candidate] = place
                if candidate and place == places[bound, candidate - 1]:
                    mass[bound, candidate] = mass[bound, candidate - 1]
                    first[bound, candidate] = first[bound, candidate - 1]
                else:
                    below, moment = sums_below(data, place)
                    mass[bound, candidate] = below
                    first[bound, candidate] = moment - center * below
        choose(places, mass, first, 1e-15 * total, bounds)


@helper
def choose(places: np.ndarray, mass: np.ndarray, first: np.ndarray, least_mass: float, bounds: np.ndarray) -> None:
    """Write the best combination of one place per bound into `bounds`; `mass` and `first` are the moments there."""
    clusters = bounds.size - 1
    width = places.shape[1]
    choice = np.empty((clusters + 1, width), np.int64)
    current = np.empty(width)
    current[:] = 0.0
    previous = np.empty(width)
    for bound in range(1, clusters + 1):
        previous, current = current, previous
        low = 0
        for end in range(width):
            best = np.inf
            for start in range(low, width):
                weight = mass[bound, end] - mass[bound - 1, start]
                moment = first[bound, end] - first[bound - 1, start]
                cost = previous[start] - moment * moment / weight
                if cost < best and weight > least_mass:
                    best = cost
                    low = start
            current[end] = best
            choice[bound, end] = low
    middle = width // 2
    if not current[middle] < np.inf:
        return
    candidate = middle
    for bound in range(clusters, 0, -1):
        candidate = choice[bound, candidate]
        bounds[bound - 1] = places[bound - 1, candidate]

"""Kernels that improve all bounds of the clusters jointly, at places between the micro-bins."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper
from graphpress.passes.clustering.sorted_values import NO_PLACE, SortedValues, partial_sums, sums_below

# Candidates on each side of a bound: close ones next to it, each gap wider than the one before by a ratio. The
# outermost lies a span of the cluster on that side away.
RADIUS = 12
RATIO = 1.6
FIRST_SPAN = 0.5
MOST_ROUNDS = 10
# Sums between places as near as this are cheaper than sums from the anchor.
NEAR = 24


@helper
def refine(data: SortedValues, bounds: np.ndarray) -> None:
    """Move the inner `bounds`, int64 places in the sorted values, to lower the error, in place.

    In each round every bound has a few candidates about its place, and a dynamic program chooses among all their
    combinations at once; Lloyd steps would take a number of rounds that grows with the square of that of the clusters.
    Spans halve from round to round, until no bound moves.
    """
    clusters = bounds.size - 1
    places = np.empty((clusters + 1, 2 * RADIUS + 1), np.int64)
    mass = np.empty(places.shape)
    first = np.empty(places.shape)
    low_mass, low_moment = sums_below(data, NO_PLACE)
    high_mass, high_moment = sums_below(data, data.values.size)
    total = high_mass - low_mass
    center = (high_moment - low_moment) / total
    span = FIRST_SPAN
    for _ in range(MOST_ROUNDS):
        place_candidates(bounds, span, places)
        for bound in range(clusters + 1):
            below, moment = sums_below(data, places[bound, 0])
            for candidate in range(places.shape[1]):
                place = places[bound, candidate]
                before = places[bound, max(candidate - 1, 0)]
                if place - before > NEAR:
                    below, moment = sums_below(data, place)
                elif place > before:
                    more_mass, more_moment = partial_sums(data.values, data.weights, before, place)
                    below += more_mass
                    moment += more_moment
                mass[bound, candidate] = below
                first[bound, candidate] = moment - center * below
        if not choose(places, mass, first, 1e-15 * total, bounds):
            break
        span *= 0.5


@helper
def place_candidates(bounds: np.ndarray, span: float, places: np.ndarray) -> None:
    """Write the candidates of each bound into `places`, int64 [clusters + 1, 2 RADIUS + 1], ascending."""
    clusters = bounds.size - 1
    for bound in range(clusters + 1):
        for candidate in range(places.shape[1]):
            places[bound, candidate] = bounds[bound]
        if 0 < bound < clusters:
            place, low, high = bounds[bound], bounds[bound - 1], bounds[bound + 1]
            for step in range(1, RADIUS + 1):
                share = span * (RATIO**step - 1) / (RATIO**RADIUS - 1)
                places[bound, RADIUS - step] = max(place - max(int((place - low) * share), step), low)
                places[bound, RADIUS + step] = min(place + max(int((high - place) * share), step), high)


@helper
def choose(places: np.ndarray, mass: np.ndarray, first: np.ndarray, least_mass: float, bounds: np.ndarray) -> bool:
    """Write the best combination of one place per bound into `bounds`, and return whether any of them moved.

    `mass` and `first` are the moments there.
    """
    clusters = bounds.size - 1
    width = places.shape[1]
    choice = np.zeros((clusters + 1, width), np.int64)
    current = np.zeros(width)
    previous = np.empty(width)
    for bound in range(1, clusters + 1):
        previous, current = current, previous
        current[:] = np.inf
        for start in range(width):
            start_mass, start_first, cost_before = mass[bound - 1, start], first[bound - 1, start], previous[start]
            for end in range(width):  # without branches: several ends at once
                weight = mass[bound, end] - start_mass
                moment = first[bound, end] - start_first
                cost = cost_before - moment * moment / weight
                better = (cost < current[end]) & (weight > least_mass)
                current[end] = cost if better else current[end]
                choice[bound, end] = start if better else choice[bound, end]
    candidate = width // 2
    if not current[candidate] < np.inf:
        return False
    moved = False
    for bound in range(clusters, 0, -1):
        candidate = choice[bound, candidate]
        moved = moved or places[bound - 1, candidate] != bounds[bound - 1]
        bounds[bound - 1] = places[bound - 1, candidate]
    return moved

"""Kernels that optimize the bounds of all clusters jointly."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper
from graphpress.passes.clustering.sorted_values import NO_PLACE, SortedValues, partial_sums, sums_below

# Candidates on each side of a bound, with geometrically growing gaps; the outermost is one span away,
# a share of the cluster on that side.
RADIUS = 12
RATIO = 1.6
FIRST_SPAN = 0.5
MOST_ROUNDS = 10
# Sums over shorter ranges are cheaper directly than as differences of sums from the anchor.
NEAR = 24


@helper
def refine(data: SortedValues, bounds: np.ndarray) -> None:
    """Move the inner `bounds`, int64 positions in the sorted values, to lower the error, in place.

    In each round every bound has a few candidate positions, and a dynamic program finds the best combination; Lloyd
    steps would need a number of rounds quadratic in the number of clusters. The spans halve from round to round, until
    no bound moves.
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
    """Write the candidate positions of each bound into `places`, int64 [clusters + 1, 2 RADIUS + 1], ascending."""
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
    """Write the best combination of candidates into `bounds`, and return whether any bound moved.

    `mass` and `first` are the moments at the candidates.
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
            for end in range(width):  # branch-free, to vectorize over ends
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


# Below this share of the points' second moment, rounding errors of the moments dominate the costs of runs.
SOUND_SHARE = 1e-9
MOST_COMPRESSIONS = 16
# Up to this many runs the cuts are searched everywhere; for more, in a window around the best cuts so far.
MOST_FREE_RUNS = 8
MOST_WINDOWS = 64
STRIDE = 4


@helper
def best_cuts(masses: np.ndarray, means: np.ndarray, clusters: int) -> tuple[np.ndarray, bool]:
    """Cut points, ascending in `means` and of positive mass, into `clusters` runs of least squared error.

    The points are spread about evenly over the runs, as micro-bins are. If clumps of points are so far apart that
    rounding would hide their structure, the gaps in `means` are shortened in place, but not so far that an optimal run
    could cross them, which preserves the optimal cuts.

    Returns the cuts, int64 [clusters + 1], from 0 to the number of points, which is at least `clusters`; and True if no
    gap was shortened.
    """
    sound = True
    for _ in range(MOST_COMPRESSIONS):
        cuts, second = windowed_cuts(masses, means, clusters)
        error = cut_error(masses, means, cuts)
        if error == 0.0 or error >= SOUND_SHARE * second or not shorten_gaps(masses, means, error):
            break
        sound = False
    return cuts, sound


@helper
def cut_error(masses: np.ndarray, means: np.ndarray, cuts: np.ndarray) -> float:
    """Return the squared error of the runs, point by point without cancellation (Chan, Golub and LeVeque, 1979)."""
    error = 0.0
    for run in range(cuts.size - 1):
        mass = mean = 0.0
        for point in range(cuts[run], cuts[run + 1]):
            grown = mass + masses[point]
            if grown > 0.0:
                distance = means[point] - mean
                share = masses[point] / grown
                error += distance * distance * mass * share
                mean += distance * share
                mass = grown
    return error


@helper
def shorten_gaps(masses: np.ndarray, means: np.ndarray, error: float) -> bool:
    """Shorten the gaps between points so that crossing one costs a few times `error`, and return whether any was.

    Positions are measured from the first point again, so that the short gaps keep their precision.
    """
    shortened = False
    before = means[0]
    means[0] = 0.0
    for point in range(1, means.size):
        gap = means[point] - before
        before = means[point]
        both = masses[point - 1] * masses[point]
        crossing = 4.0 * error * (masses[point - 1] + masses[point])
        if gap * gap * both > crossing:
            gap = np.sqrt(crossing / both)
            shortened = True
        means[point] = means[point - 1] + gap
    return shortened


@helper
def windowed_cuts(masses: np.ndarray, means: np.ndarray, clusters: int) -> tuple[np.ndarray, float]:
    """Return the best cuts found in moving windows, and the second moment of the points.

    The first windows are centered at even cuts. They move until no cut is near the edge of its window; being wider than
    a run on each side, they move runs from dense to sparse regions. Cuts on a coarser grid of points are searched
    first, in windows with the same number of positions.
    """
    size = masses.size
    mass = np.empty(size + 1)
    first = np.empty(size + 1)
    second = central_moments(masses, means, mass, first)
    cuts = np.empty(clusters + 1, np.int64)
    if clusters > MOST_FREE_RUNS and size >= 2 * STRIDE * clusters:
        count = (size + STRIDE - 1) // STRIDE
        coarse_mass = np.empty(count + 1)
        coarse_first = np.empty(count + 1)
        for point in range(count + 1):
            coarse_mass[point] = mass[min(STRIDE * point, size)]
            coarse_first[point] = first[min(STRIDE * point, size)]
        place_evenly(cuts, count)
        move_windows(coarse_mass, coarse_first, 3 * size // (2 * clusters), cuts)
        for layer in range(clusters + 1):
            cuts[layer] = min(STRIDE * cuts[layer], size)
    else:
        place_evenly(cuts, size)
    move_windows(mass, first, size if clusters <= MOST_FREE_RUNS else 3 * size // (2 * clusters), cuts)
    return cuts, second


@helper
def place_evenly(cuts: np.ndarray, size: int) -> None:
    """Write cuts of `size` points into even runs."""
    for layer in range(cuts.size):
        cuts[layer] = layer * size // (cuts.size - 1)


@helper
def move_windows(mass: np.ndarray, first: np.ndarray, reach: int, cuts: np.ndarray) -> None:
    """Improve `cuts` within `reach` positions or two runs, until they stay near the center of their windows."""
    size = mass.size - 1
    clusters = cuts.size - 1
    middles = np.empty(clusters + 1, np.int64)
    lowest = np.empty(clusters + 1, np.int64)
    highest = np.empty(clusters + 1, np.int64)
    best = np.inf
    for _ in range(MOST_WINDOWS):
        for layer in range(clusters + 1):
            low = min(cuts[layer] - reach, cuts[max(layer - 2, 0)])
            high = max(cuts[layer] + reach, cuts[min(layer + 2, clusters)])
            lowest[layer] = max(low, layer)
            highest[layer] = min(high, size - clusters + layer)
            middles[layer] = cuts[layer]
        lowest[0] = highest[0] = 0
        lowest[clusters] = highest[clusters] = size
        cost = layered_cuts(mass, first, lowest, highest, cuts)
        farthest = np.int64(0)
        for layer in range(1, clusters):
            farthest = max(farthest, abs(cuts[layer] - middles[layer]))
        if farthest <= reach // 2 or not cost < best:
            break
        best = cost


@helper
def central_moments(masses: np.ndarray, means: np.ndarray, mass: np.ndarray, first: np.ndarray) -> float:
    """Write prefix sums of mass and of mass times distance to the mean, float64 [n + 1]; return the second moment."""
    mass[0] = first[0] = center = second = 0.0
    for point in range(masses.size):
        mass[point + 1] = mass[point] + masses[point]
        center += masses[point] * means[point]
    center /= mass[masses.size]
    for point in range(masses.size):
        offset = means[point] - center
        first[point + 1] = first[point] + masses[point] * offset
        second += masses[point] * offset * offset
    return second


@helper
def layered_cuts(
    mass: np.ndarray, first: np.ndarray, lowest: np.ndarray, highest: np.ndarray, cuts: np.ndarray
) -> float:
    """Write the best cuts with ``lowest <= cuts <= highest`` into `cuts` and return their cost.

    The dynamic program has one layer per run. The cost of a run, its error minus its second moment, obeys the
    quadrangle inequality, so the best last cut grows with the end of the range and with the number of runs, and a layer
    of n ends costs less than n log n (Wu, 1991; Groenlund et al., "Fast exact k-means, k-medians and Bregman divergence
    clustering in 1D", 2017).
    """
    size = mass.size - 1
    clusters = lowest.size - 1
    widest = np.int64(0)
    for layer in range(clusters + 1):
        widest = max(widest, highest[layer] - lowest[layer] + 1)
    last_cut = np.empty((clusters + 1, widest), np.int64)
    previous = np.empty(size + 1)
    current = np.empty(size + 1)
    current[0] = 0.0
    for layer in range(1, clusters + 1):
        previous, current = current, previous
        begin = lowest[layer]
        before = lowest[layer - 1]
        count = highest[layer] - begin + 1
        half = 1
        while half < count:
            half *= 2
        while half >= 1:
            for offset in range(half - 1, count, 2 * half):
                end = begin + offset
                low = before
                high = min(highest[layer - 1], end - 1)
                if offset >= half:
                    low = last_cut[layer, offset - half]
                if offset + half < count:
                    high = min(high, last_cut[layer, offset + half])
                if layer > 1 and end <= highest[layer - 1]:
                    low = max(low, last_cut[layer - 1, end - before])
                best = np.inf
                best_cut = low
                for cut in range(low, high + 1):
                    weight = mass[end] - mass[cut]
                    moment = first[end] - first[cut]
                    cost = previous[cut] - moment * moment / weight
                    if cost < best:
                        best = cost
                        best_cut = cut
                current[end] = best
                last_cut[layer, offset] = best_cut
            half //= 2
    cuts[clusters] = size
    for layer in range(clusters, 0, -1):
        cuts[layer - 1] = last_cut[layer, cuts[layer] - lowest[layer]]
    return current[size]

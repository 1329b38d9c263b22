"""Kernels that seed vector k-means and improve local optima."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel
from graphpress.passes.clustering.sorted_values import NO_PLACE, first_above
from graphpress.passes.clustering.vector_kernels import LANES, VectorBlocks, nearest_errors, nearest_sums, weight_of


@kernel
def coreset(blocks: VectorBlocks, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw a weighted sample of the vectors; return their positions, int64 [m], and weights, float64 [m].

    A lightweight coreset (Bachem, Lucic and Krause, 2018): the probability of a vector is half proportional to its
    weight, half to weight times squared distance to the mean, so that outliers are drawn too; the weight of a drawn
    vector is the inverse of its probability. `draws` are uniform in [0, 1), float64 [m], ascending.
    """
    size, axes, moments = blocks.size, len(blocks.axes), blocks.moments
    mean = np.zeros(axes)
    mass = 0.0
    for block in range(moments.shape[0]):
        mass += moments[block, axes]
        for axis in range(axes):
            mean[axis] += moments[block, axis]
    for axis in range(axes):
        mean[axis] /= mass
    moment = 0.0
    for place in range(size):
        moment += weight_of(blocks.weights, place) * distance_to(blocks, place, mean)
    share = 0.5 / moment if moment > 0.0 else 0.0
    chances = 0.0
    for place in range(size):
        chances += weight_of(blocks.weights, place) * (0.5 / mass + share * distance_to(blocks, place, mean))
    places = np.empty(draws.size, np.int64)
    masses = np.empty(draws.size)
    below = 0.0
    draw = 0
    for place in range(size):  # the draws ascend, so that one more pass finds all of them
        chance = 0.5 / mass + share * distance_to(blocks, place, mean)
        below += weight_of(blocks.weights, place) * chance
        while draw < draws.size and (below > draws[draw] * chances or place + 1 == size):
            places[draw] = place
            masses[draw] = 1.0 / (chance * draws.size)
            draw += 1
    return places, masses


@helper
def distance_to(blocks: VectorBlocks, place: int, center: np.ndarray) -> float:
    """Return the squared distance of a vector to `center`, float64 [d]."""
    block, lane = divmod(place, LANES)
    distance = 0.0
    for axis in range(len(blocks.axes)):
        offset = blocks.columns[block, axis, lane] - center[axis]
        distance += offset * offset
    return distance


@kernel
def seed_centroids(columns: np.ndarray, weights: np.ndarray, clusters: int, draws: np.ndarray) -> np.ndarray:
    """Choose centroids among vectors, the float64 `columns` [d, n], by greedy k-means++; float64 [chosen, d].

    Each centroid is the best of several candidates drawn with probability proportional to weight times squared distance
    to the nearest chosen centroid (Arthur and Vassilvitskii, 2007). `weights` are float64 [n], `draws` uniform in [0,
    1), [clusters, candidates]. Fewer than `clusters` are chosen if there are fewer distinct vectors.
    """
    dimensions, size = columns.shape
    centroids = np.empty((clusters, dimensions))
    errors = np.empty(size)
    trial = np.empty(size)
    best_trial = np.empty(size)
    for place in range(size):
        errors[place] = weights[place] * np.inf if weights[place] > 0.0 else 0.0
        best_trial[place] = weights[place]
    for cluster in range(clusters):
        cumulated = best_trial  # of the probabilities of the vectors: their errors, at first their weights
        total = 0.0
        for place in range(size):
            total += cumulated[place]
            cumulated[place] = total
        if not total > 0.0:
            return centroids[:cluster]
        chosen = NO_PLACE
        least = np.inf
        for candidate in range(draws.shape[1]):
            place = min(first_above(cumulated, draws[cluster, candidate] * total, NO_PLACE, size), size - 1)
            potential = lowered(columns, weights, place, errors, trial)
            if potential < least:
                least = potential
                chosen = place
        lowered(columns, weights, chosen, errors, best_trial)
        for place in range(size):
            errors[place] = best_trial[place]
        for axis in range(dimensions):
            centroids[cluster, axis] = columns[axis, chosen]
    return centroids


@helper
def lowered(columns: np.ndarray, weights: np.ndarray, center: int, errors: np.ndarray, out: np.ndarray) -> float:
    """Write the weighted errors with `center` as an additional centroid into `out`, float64 [n]; return their sum."""
    dimensions, size = columns.shape
    for place in range(size):
        out[place] = 0.0
    for axis in range(dimensions):
        coordinate = columns[axis, center]
        for place in range(size):
            offset = columns[axis, place] - coordinate
            out[place] += offset * offset
    first = second = third = fourth = 0.0
    for place in range(size):
        out[place] = min(out[place] * weights[place], errors[place])
    for place in range(0, size - 3, 4):
        first += out[place]
        second += out[place + 1]
        third += out[place + 2]
        fourth += out[place + 3]
    for place in range(size & ~3, size):
        first += out[place]
    return (first + second) + (third + fourth)


SAME_ERROR = 1e-5  # tables whose relative errors differ by less count as equal


class Trial(NamedTuple):
    """The stopping rule of a trial.

    It ends when a Lloyd step gains less than the share `least_gain`, or when its error would still exceed the best
    error after a gain of `most_left` times the last gain.
    """

    steps: int  # maximum
    least_gain: float
    most_left: float
    relaxation: float  # overrelaxation factor of centroid moves; the error never rises for factors below 2


@kernel
def spliced(blocks: VectorBlocks, tables: np.ndarray, draws: np.ndarray, directions: np.ndarray, how: Trial) -> None:
    """Improve the `tables` of centroids, float64 [p, k, d], in place; the first is the best at the end.

    Cut and splice (Deaven and Ho, 1995): in each turn two tables are drawn and cut across a direction, and the lower
    part of one is joined with the upper part of the other, followed by Lloyd steps. The result replaces the worst table
    if it is better and not a duplicate.

    Args:
        draws: uniform in [0, 1), float64 [turns, 3].
        directions: float64 [turns, d].
    """
    count, clusters, _ = tables.shape
    errors = np.empty(count)
    for table in range(count):
        errors[table], _ = nearest_sums(blocks, tables[table])
    for turn in range(draws.shape[0] if count > 1 and clusters > 1 else 0):
        first = int(draws[turn, 0] * count)
        second = (first + 1 + int(draws[turn, 1] * (count - 1))) % count
        cut = 1 + int(draws[turn, 2] * (clusters - 1))
        trial = np.empty_like(tables[0])
        low, high = ranked(tables[first], directions[turn]), ranked(tables[second], directions[turn])
        for rank in range(clusters):
            trial[rank] = tables[first, low[rank]] if rank < cut else tables[second, high[rank]]
        place = errors.argmax()  # the worst, or the duplicate
        error = settled(blocks, trial, errors[place], how)
        nearest = np.abs(errors - error).argmin()
        if abs(errors[nearest] - error) <= SAME_ERROR * error:
            place = nearest
        if error < errors[place]:
            errors[place] = error
            tables[place] = trial
    best = errors.argmin()
    if best:
        tables[0] = tables[best]


@kernel
def swapped(blocks: VectorBlocks, centroids: np.ndarray, draws: np.ndarray, how: Trial) -> np.ndarray:
    """Return centroids, float64 [k, d], whose squared error is at most that of `centroids`.

    Random swaps (Fränti, 2018): in each turn a random centroid moves to a vector drawn by its error, and is kept there
    if Lloyd steps lower the error. `draws` are uniform in [0, 1), float64 [turns, 2].
    """
    best = centroids.copy()
    error, _ = nearest_sums(blocks, best)
    errors = nearest_errors(blocks, best)
    chances = chances_of_blocks(errors)
    for turn in range(draws.shape[0]):
        if not chances[-1] > 0.0:
            break
        trial = best.copy()
        block, lane = drawn(errors, chances, draws[turn, 0] * chances[-1])
        cluster = int(draws[turn, 1] * centroids.shape[0])
        for axis in range(len(blocks.axes)):
            trial[cluster, axis] = blocks.columns[block, axis, lane]
        now = settled(blocks, trial, error, how)
        if now < error:
            error, best = now, trial
            errors = nearest_errors(blocks, best)
            chances = chances_of_blocks(errors)
    return best


@helper
def settled(blocks: VectorBlocks, trial: np.ndarray, error: float, how: Trial) -> float:
    """Move the centroids of `trial`, float64 [k, d], in place by Lloyd steps; return an upper bound of their error.

    `error` is the error to beat.
    """
    before = now = np.inf
    for step in range(how.steps):
        now, sums = nearest_sums(blocks, trial)
        gain = before - now
        if not now < before * (1.0 - how.least_gain) or (step and now - gain * how.most_left > error):
            break
        before = now
        for cluster in range(trial.shape[0]):
            mass = sums[cluster, -1]
            for axis in range(trial.shape[1] if mass > 0.0 else 0):
                way = sums[cluster, axis] / mass - trial[cluster, axis]
                trial[cluster, axis] += way * how.relaxation if step else way
    return now


@helper
def ranked(centroids: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the order, int64 [k], in which `centroids` [k, d] lie in a `direction` [d]."""
    heights = np.zeros(centroids.shape[0])
    for axis in range(centroids.shape[1]):
        heights += centroids[:, axis] * direction[axis]
    return np.argsort(heights, kind="mergesort")


@helper
def chances_of_blocks(errors: np.ndarray) -> np.ndarray:
    """Return the cumulative squares of `errors`, float32 [n], at the end of each block, float64 [blocks]."""
    chances = np.empty(-(-errors.size // LANES))
    total = 0.0
    for block in range(chances.size):
        for place in range(block * LANES, min(block * LANES + LANES, errors.size)):
            total += np.float64(errors[place]) * np.float64(errors[place])
        chances[block] = total
    return chances


@helper
def drawn(errors: np.ndarray, chances: np.ndarray, height: float) -> tuple[int, int]:
    """Return block and lane of the vector where the cumulative squares of `errors` reach `height`."""
    block = min(int(np.searchsorted(chances, height, "right")), chances.size - 1)
    below = chances[block - 1] if block else 0.0
    lane, lanes = 0, min(LANES, errors.size - block * LANES)
    for place in range(block * LANES, block * LANES + lanes - 1):
        below += np.float64(errors[place]) * np.float64(errors[place])
        if below > height:
            break
        lane += 1
    return block, lane

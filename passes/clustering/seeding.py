"""Kernels that choose the first centroids of vector k-means: a sample, and k-means++ on it."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel
from graphpress.passes.clustering.sorted_values import NO_PLACE, first_above
from graphpress.passes.clustering.vector_blocks import LANES, VectorBlocks, weight_of


@kernel
def coreset(blocks: VectorBlocks, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw vectors that stand for all; return their places, int64 [m], and weights, float64 [m].

    A lightweight coreset (Bachem, Lucic and Krause, 2018): half of the chance of a vector goes by its weight, half by
    weight times squared distance to the mean, so that vectors far out are drawn too; a drawn vector weighs the
    inverse of its chance. `draws` are uniform numbers of [0, 1), float64 [m], ascending.
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
    for place in range(size):  # the draws ascend: one more pass finds all of them
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

    Each next one is the best of several candidates drawn with probability weight times squared distance to the
    nearest chosen one (Arthur and Vassilvitskii, 2007). `weights` are float64 [n], `draws` uniform numbers of [0, 1),
    [clusters, candidates]. Fewer than `clusters` are chosen when the vectors have fewer distinct values.
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
        cumulated = best_trial  # of the chances of each vector: its error, at first its weight
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
    """Write the weighted errors if vector `center` were a centroid too into `out`, float64 [n]; return their sum."""
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

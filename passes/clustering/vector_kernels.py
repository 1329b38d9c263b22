"""Kernels of vector k-means: the nearest centroids, and the sums of clusters.

Vectors are float32 [n, d], weights float32 [n], or [0] where every weight is one; centroids are float64 [k, d].
Distances and sums are float64, in a fixed order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel

LANES = 128


@kernel
def nearest(vectors: np.ndarray, weights: np.ndarray, centroids: np.ndarray, indices: np.ndarray) -> float:
    """Write the first nearest of `centroids` into `indices`, uint8 [n]; return the weighted squared error."""
    blocks = make_blocks(vectors, centroids)
    total = 0.0
    for start in range(0, vectors.shape[0], LANES):
        lanes = min(LANES, vectors.shape[0] - start)
        search(vectors, start, lanes, blocks)
        for lane in range(lanes):
            indices[start + lane] = blocks.choice[lane]
            total += weight_of(weights, start + lane) * blocks.best[lane]
    return total


@kernel
def nearest_errors(vectors: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the root of weight times squared distance to the nearest of `centroids`, float32 [n].

    Squares may be out of a float32's range, their roots are not.
    """
    blocks = make_blocks(vectors, centroids)
    errors = np.empty(vectors.shape[0], np.float32)
    for start in range(0, vectors.shape[0], LANES):
        lanes = min(LANES, vectors.shape[0] - start)
        search(vectors, start, lanes, blocks)
        for lane in range(lanes):
            errors[start + lane] = np.sqrt(weight_of(weights, start + lane) * blocks.best[lane])
    return errors


@kernel
def lower_errors(vectors: np.ndarray, weights: np.ndarray, centroid: np.ndarray, errors: np.ndarray) -> None:
    """Lower the `errors` that `nearest_errors` gives to those with one more centroid, float64 [d]."""
    for place in range(vectors.shape[0]):
        distance = 0.0
        for axis in range(vectors.shape[1]):
            offset = vectors[place, axis] - centroid[axis]
            distance += offset * offset
        errors[place] = min(errors[place], np.float32(np.sqrt(weight_of(weights, place) * distance)))


@kernel
def nearest_sums(vectors: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the weighted squared error against the nearest of `centroids`, and the sums of what each has.

    These are the weighted sum and the mass of its vectors, float64 [clusters, d + 1], mass last.
    """
    clusters, dimensions = centroids.shape
    blocks = make_blocks(vectors, centroids)
    sums = np.empty((clusters, dimensions + 1))
    for cluster in range(clusters):
        for axis in range(dimensions + 1):
            sums[cluster, axis] = 0.0
    total = 0.0
    for start in range(0, vectors.shape[0], LANES):
        lanes = min(LANES, vectors.shape[0] - start)
        search(vectors, start, lanes, blocks)
        for lane in range(lanes):
            cluster = blocks.choice[lane]
            weight = weight_of(weights, start + lane)
            total += weight * blocks.best[lane]
            for axis in range(dimensions):
                sums[cluster, axis] += weight * blocks.block[axis, lane]
            sums[cluster, dimensions] += weight
    return total, sums


@helper
def weight_of(weights: np.ndarray, place: int) -> float:
    """Return the weight of a vector."""
    return np.float64(weights[place]) if weights.size else 1.0


class Blocks(NamedTuple):
    """What the search in one block of vectors works on; all float64 but the whole numbers."""

    columns: np.ndarray  # the centroids, [d, k]
    block: np.ndarray  # the vectors, [d, LANES]
    distances: np.ndarray  # scratch, [2, k or LANES]
    best: np.ndarray  # squared distances to the nearest centroids, [LANES]
    choice: np.ndarray  # which those are, int64 [LANES]
    candidates: np.ndarray  # the centroids that come into question, int64 [k]


@helper
def make_blocks(vectors: np.ndarray, centroids: np.ndarray) -> Blocks:
    """Return memory for searches."""
    clusters, dimensions = centroids.shape
    columns = np.empty((dimensions, clusters))
    for axis in range(dimensions):
        for cluster in range(clusters):
            columns[axis, cluster] = centroids[cluster, axis]
    return Blocks(
        columns,
        np.empty((dimensions, LANES)),
        np.empty((2, max(LANES, clusters))),
        np.empty(LANES),
        np.empty(LANES, np.int64),
        np.empty(clusters, np.int64),
    )


@helper
def search(vectors: np.ndarray, start: int, lanes: int, blocks: Blocks) -> None:
    """Find the first nearest centroid of each of the `lanes` vectors from `start`.

    Only centroids that can be nearest to a vector in the bounding box of these are compared; rounding is monotonous, so
    leaving out the others changes nothing. Vectors are best neighbours.
    """
    columns, block, distances, best, choice, candidates = blocks
    dimensions = columns.shape[0]
    for lane in range(LANES):
        place = start + min(lane, lanes - 1)
        for axis in range(dimensions):
            block[axis, lane] = vectors[place, axis]
        best[lane] = np.inf
        choice[lane] = 0
    found = possible_centroids(block, columns, distances, candidates)
    for candidate in range(found):
        cluster = candidates[candidate]
        for lane in range(LANES):
            offset = block[0, lane] - columns[0, cluster]
            distances[0, lane] = offset * offset
        for axis in range(1, dimensions):
            coordinate = columns[axis, cluster]
            for lane in range(LANES):
                offset = block[axis, lane] - coordinate
                distances[0, lane] += offset * offset
        for lane in range(LANES):
            closer = distances[0, lane] < best[lane]
            best[lane] = distances[0, lane] if closer else best[lane]
            choice[lane] = cluster if closer else choice[lane]


@helper
def possible_centroids(block: np.ndarray, columns: np.ndarray, distances: np.ndarray, candidates: np.ndarray) -> int:
    """Write which centroids can be nearest to a vector in the box of `block`, float64 [d, lanes]; return how many.

    `columns` are the centroids, float64 [d, k]; `distances` is scratch, [2, k or more].
    """
    clusters = columns.shape[1]
    for cluster in range(clusters):
        distances[0, cluster] = distances[1, cluster] = 0.0
    for axis in range(block.shape[0]):
        low = high = block[axis, 0]
        for lane in range(1, block.shape[1]):
            low = min(low, block[axis, lane])
            high = max(high, block[axis, lane])
        for cluster in range(clusters):
            below = low - columns[axis, cluster]
            above = columns[axis, cluster] - high
            outside = max(max(below, above), 0.0)
            farthest = max(high - columns[axis, cluster], columns[axis, cluster] - low)
            distances[0, cluster] += outside * outside
            distances[1, cluster] += farthest * farthest
    bound = second = third = fourth = np.inf
    for cluster in range(0, clusters - 3, 4):
        bound = min(bound, distances[1, cluster])
        second = min(second, distances[1, cluster + 1])
        third = min(third, distances[1, cluster + 2])
        fourth = min(fourth, distances[1, cluster + 3])
    for cluster in range(clusters & ~3, clusters):
        bound = min(bound, distances[1, cluster])
    bound = min(min(bound, second), min(third, fourth))
    found = 0
    for cluster in range(clusters):
        if distances[0, cluster] <= bound:
            candidates[found] = cluster
            found += 1
    return found

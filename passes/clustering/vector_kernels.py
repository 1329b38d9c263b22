"""Kernels of vector k-means: the nearest centroids, and the sums of clusters.

Vectors are float32 [n, d], weights float32 [n], or [0] where every weight is one; centroids are float64 [k, d].
Distances and sums are float64, in a fixed order.
"""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel

LANES = 128


@kernel
def nearest(vectors: np.ndarray, centroids: np.ndarray, indices: np.ndarray, errors: np.ndarray) -> None:
    """Write the first nearest of `centroids` into `indices` and its squared distance into `errors`, float64 [n].

    Vectors are taken in blocks, best of neighbours. Only centroids that can be nearest to a vector in the block's
    bounding box are compared; rounding is monotonous, so leaving out the others changes nothing.
    """
    size, dimensions = vectors.shape
    clusters = centroids.shape[0]
    columns = np.empty((dimensions, clusters))
    for axis in range(dimensions):
        for cluster in range(clusters):
            columns[axis, cluster] = centroids[cluster, axis]
    block = np.empty((dimensions, LANES))
    distances = np.empty((2, max(LANES, clusters)))
    best = np.empty(LANES)
    choice = np.empty(LANES, np.int64)
    candidates = np.empty(clusters, np.int64)
    for start in range(0, size, LANES):
        lanes = min(LANES, size - start)
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
        for lane in range(lanes):
            indices[start + lane] = choice[lane]
            errors[start + lane] = best[lane]


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


@kernel
def cluster_sums(vectors: np.ndarray, weights: np.ndarray, indices: np.ndarray, clusters: int) -> np.ndarray:
    """Return the weighted sum and the mass of the vectors of each cluster, float64 [clusters, d + 1], mass last."""
    dimensions = vectors.shape[1]
    sums = np.empty((clusters, dimensions + 1))
    for cluster in range(clusters):
        for axis in range(dimensions + 1):
            sums[cluster, axis] = 0.0
    for place in range(vectors.shape[0]):
        cluster = indices[place]
        weight = np.float64(weights[place]) if weights.size else 1.0
        for axis in range(dimensions):
            sums[cluster, axis] += weight * vectors[place, axis]
        sums[cluster, dimensions] += weight
    return sums

"""Kernels of vector k-means: nearest centroids, k-means++ seeding, Lloyd steps.

Vectors are float32 [n, d], weights float32 [n], or [0] where every weight is one; centroids are float64 [k, d].
Distances and sums are float64, in a fixed order.
"""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel

LANES = 128


@kernel
def nearest(vectors, centroids, indices, errors):
    """Write the first nearest of `centroids` into `indices` and its squared distance into `errors`, float64 [n].

    Vectors are taken in blocks, best of neighbours. Only centroids that can be nearest to a vector in the block's
    bounding box are compared; rounding is monotonous, so leaving out the others changes nothing.
    """
    size, dimensions = vectors.shape
    block = np.empty((dimensions, LANES))
    distance = np.empty(LANES)
    best = np.empty(LANES)
    choice = np.empty(LANES, np.int64)
    candidates = np.empty(centroids.shape[0], np.int64)
    for start in range(0, size, LANES):
        lanes = min(LANES, size - start)
        for lane in range(LANES):
            for axis in range(dimensions):
                block[axis, lane] = vectors[start + min(lane, lanes - 1), axis]
            best[lane] = np.inf
            choice[lane] = 0
        found = possible_centroids(block, centroids, candidates)
        for candidate in range(found):
            cluster = candidates[candidate]
            distance[:] = 0.0
            for axis in range(dimensions):
                coordinate = centroids[cluster, axis]
                for lane in range(LANES):
                    offset = block[axis, lane] - coordinate
                    distance[lane] += offset * offset
            for lane in range(LANES):
                closer = distance[lane] < best[lane]
                best[lane] = distance[lane] if closer else best[lane]
                choice[lane] = cluster if closer else choice[lane]
        for lane in range(lanes):
            indices[start + lane] = choice[lane]
            errors[start + lane] = best[lane]


@helper
def possible_centroids(block, centroids, candidates):
    """Write which centroids can be nearest to a vector in the box of `block`, float64 [d, lanes]; return how many."""
    dimensions = block.shape[0]
    low = np.empty(dimensions)
    high = np.empty(dimensions)
    for axis in range(dimensions):
        smallest = largest = block[axis, 0]
        for lane in range(1, block.shape[1]):
            smallest = min(smallest, block[axis, lane])
            largest = max(largest, block[axis, lane])
        low[axis], high[axis] = smallest, largest
    bound = np.inf
    for cluster in range(centroids.shape[0]):
        farthest = 0.0
        for axis in range(dimensions):
            offset = max(high[axis] - centroids[cluster, axis], centroids[cluster, axis] - low[axis])
            farthest += offset * offset
        bound = min(bound, farthest)
    found = 0
    for cluster in range(centroids.shape[0]):
        closest = 0.0
        for axis in range(dimensions):
            offset = max(low[axis] - centroids[cluster, axis], centroids[cluster, axis] - high[axis], 0.0)
            closest += offset * offset
        if closest <= bound:
            candidates[found] = cluster
            found += 1
    return found


@helper
def lower_errors(vectors, center, errors):
    """Lower each of `errors` to the squared distance to `center`, float64 [d], where that is less."""
    size, dimensions = vectors.shape
    for place in range(size):
        distance = 0.0
        for axis in range(dimensions):
            offset = np.float64(vectors[place, axis]) - center[axis]
            distance += offset * offset
        errors[place] = min(errors[place], distance)


@kernel
def seed_centroids(vectors, weights, clusters, draws):
    """Choose centroids among the vectors by greedy k-means++, [chosen, d]; `weights` are float64 [n].

    Each next one is the best of several candidates drawn with probability weight times squared distance to the
    nearest chosen one (Arthur and Vassilvitskii, 2007). `draws` holds uniform numbers of [0, 1), float64
    [clusters, candidates]. Fewer than `clusters` are chosen when the vectors have fewer distinct values.
    """
    size, dimensions = vectors.shape
    centroids = np.empty((clusters, dimensions))
    errors = np.full(size, np.inf)
    trial = np.empty(size)
    best_trial = np.empty(size)
    cumulated = np.cumsum(weights)
    for cluster in range(clusters):
        if not cumulated[-1] > 0.0:
            return centroids[:cluster]
        best = np.inf
        best_place = 0
        for candidate in range(draws.shape[1]):
            place = np.searchsorted(cumulated, draws[cluster, candidate] * cumulated[-1], side="right")
            trial[:] = errors
            lower_errors(vectors, vectors[place].astype(np.float64), trial)
            potential = 0.0
            for other in range(size):
                potential += trial[other] * weights[other]
            if potential < best:
                best = potential
                best_place = place
                trial, best_trial = best_trial, trial
        errors[:] = best_trial
        centroids[cluster] = vectors[best_place]
        total = 0.0
        for place in range(size):
            total += errors[place] * weights[place]
            cumulated[place] = total
    return centroids


@kernel
def lloyd_step(vectors, weights, centroids, indices, errors):
    """Assign, then move each of `centroids` to the mean of its vectors, in place; return the error before the move.

    A cluster without vectors is seeded again at the vector of the largest error.
    """
    nearest(vectors, centroids, indices, errors)
    clusters, dimensions = centroids.shape
    sums = np.zeros((clusters, dimensions))
    masses = np.zeros(clusters)
    total = 0.0
    for place in range(vectors.shape[0]):
        cluster = indices[place]
        weight = np.float64(weights[place]) if weights.size else 1.0
        masses[cluster] += weight
        total += weight * errors[place]
        for axis in range(dimensions):
            sums[cluster, axis] += weight * vectors[place, axis]
    for cluster in range(clusters):
        if masses[cluster] > 0.0:
            for axis in range(dimensions):
                centroids[cluster, axis] = sums[cluster, axis] / masses[cluster]
        else:
            seed_at_worst(vectors, weights, centroids[cluster], errors)
    return total


@kernel
def seed_at_worst(vectors, weights, centroid, errors):
    """Put `centroid` on the vector of the largest weighted error and lower the errors; return that error."""
    worst = 0
    largest = 0.0
    for place in range(vectors.shape[0]):
        error = errors[place] * (np.float64(weights[place]) if weights.size else 1.0)
        if error > largest:
            worst = place
            largest = error
    if largest > 0.0:
        centroid[:] = vectors[worst]
        lower_errors(vectors, centroid, errors)
    return largest

"""Vector k-means: seeded, reproducible, without empty clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphpress.passes.clustering.errors import ClusteringError
from graphpress.passes.clustering.inputs import check_clusters, non_finite, read_floats, read_weights
from graphpress.passes.clustering.result import Clusters

if TYPE_CHECKING:
    from graphpress.passes.clustering.inputs import Floats

SAMPLE_PER_CLUSTER = 8
LEAST_SAMPLE = 2048
CANDIDATES = 3
STRIDED_PER_CLUSTER = 128
LEAST_STRIDED = 8192
MOST_STEPS = 60
MOST_LAST_STEPS = 5
LEAST_GAIN = 2e-4


def cluster_vectors(values: Floats, k: int, seed: int, weights: Floats | None = None) -> Clusters:
    """Cluster the rows of `values` [n, d] into `k` centroids [k, d] of small squared error.

    Greedy k-means++ on a weighted sample, which takes in vectors far out, then Lloyd steps on all vectors. Clusters
    that run empty are seeded again at the vector with the largest error. The result depends on nothing but the
    arguments.

    Args:
        values: [n, d], any floating dtype; finite.
        k: number of centroids, 1 to 256.
        seed: of the random draws, not negative.
        weights: importance of each vector, [n], not negative; all zero counts as no weights.

    Raises:
        ClusteringError: for values that are not finite, not two-dimensional, or weights that do not fit.
    """
    check_clusters(k)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ClusteringError(f"seed is {seed!r}; it must be an integer that is not negative")
    vectors = read_vectors(values, "values")
    importance = read_weights(weights, vectors.shape[:1])
    size, dimensions = vectors.shape
    if size == 0:
        return Clusters(np.zeros((k, dimensions), np.float32), np.zeros(0, np.uint8), 0.0)
    if importance is None or not importance.any():
        importance = np.empty(0, np.float32)
    from graphpress.passes.clustering import vector_kernels as kernels  # loads numba
    from graphpress.passes.clustering.tree_order import tree_order

    order = tree_order(vectors, kernels.LANES)
    vectors = vectors[order]
    importance = importance[order] if importance.size else importance
    centroids = _seeded(vectors, importance, k, np.random.default_rng(seed))
    stride = max(1, size // max(LEAST_STRIDED, STRIDED_PER_CLUSTER * k))
    if stride > 1:  # neighbours are alike: every so many of them settle most steps
        part = np.ascontiguousarray(vectors[::stride])
        _lloyd(part, np.ascontiguousarray(importance[::stride]), centroids, MOST_STEPS)
    _lloyd(vectors, importance, centroids, MOST_STEPS if stride == 1 else MOST_LAST_STEPS)
    table = centroids.astype(np.float32)
    labels, errors = np.empty(size, np.uint8), np.empty(size)
    kernels.nearest(vectors, table.astype(np.float64), labels, errors)
    indices = np.empty(size, np.uint8)
    indices[order] = labels
    table = np.concatenate([table, np.repeat(table[-1:], k - len(table), axis=0)])
    return Clusters(table, indices, float(np.dot(errors, importance) if importance.size else errors.sum()))


def assign_vectors(values: Floats, centroids: Floats) -> np.ndarray:
    """Return for each row of `values` [n, d] the index, uint8 [n], of the nearest row of `centroids` [k, d].

    Distances are compared in float64; ties go to the lower index.

    Raises:
        ClusteringError: for values or centroids that are not finite, or shapes that do not go together.
    """
    vectors, table = read_vectors(values, "values"), read_vectors(centroids, "centroids")
    check_clusters(len(table))
    if vectors.shape[1] != table.shape[1]:
        raise ClusteringError(
            f"values have shape {vectors.shape} and centroids {table.shape}; the last axes must be the same"
        )
    from graphpress.passes.clustering import vector_kernels as kernels  # loads numba

    indices = np.empty(len(vectors), np.uint8)
    kernels.nearest(vectors, table.astype(np.float64), indices, np.empty(len(vectors)))
    return indices


def read_vectors(values: Floats, what: str) -> np.ndarray:
    """Return `values` as finite float32 [n, d]."""
    vectors = read_floats(values, what)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ClusteringError(f"{what} have shape {vectors.shape}; vectors are rows: [n, d]")
    finite = np.isfinite(vectors)
    if not finite.all():
        raise non_finite(vectors.size - int(np.count_nonzero(finite)), vectors.size, what)
    return vectors


def _lloyd(vectors: np.ndarray, weights: np.ndarray, centroids: np.ndarray, steps: int) -> None:
    """Move `centroids`, float64 [at most k, d], by Lloyd steps in place, until they gain little or `steps` are made."""
    from graphpress.passes.clustering import vector_kernels as kernels

    indices, errors = np.empty(len(vectors), np.uint8), np.empty(len(vectors))
    before = np.inf
    for _ in range(steps):
        kernels.nearest(vectors, centroids, indices, errors)
        if weights.size:
            errors *= weights
        error = errors.sum()
        if not error < before * (1 - LEAST_GAIN):
            break
        before = error
        sums = kernels.cluster_sums(vectors, weights, indices, len(centroids))
        held = sums[:, -1] > 0
        centroids[held] = sums[held, :-1] / sums[held, -1:]
        for empty in np.flatnonzero(~held):
            worst = np.argmax(errors)
            centroids[empty] = vectors[worst]
            np.minimum(errors, _errors_to(vectors, weights, centroids[empty]), out=errors)


def _seeded(vectors: np.ndarray, weights: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Return centroids, float64 [k, d], chosen among the vectors; fewer only if fewer are distinct."""
    from graphpress.passes.clustering import seeding
    from graphpress.passes.clustering import vector_kernels as kernels

    size = max(LEAST_SAMPLE, SAMPLE_PER_CLUSTER * k)
    if len(vectors) > size:
        places, masses = seeding.coreset(vectors, weights, np.sort(generator.random(size)))
        sample = vectors[places]
    else:
        sample, masses = vectors, (weights.astype(np.float64) if weights.size else np.ones(len(vectors)))
    columns = np.ascontiguousarray(sample.T, dtype=np.float64)
    centroids = seeding.seed_centroids(columns, masses, k, generator.random((k, CANDIDATES)))
    if len(centroids) == k:
        return centroids
    errors = np.empty(len(vectors))
    kernels.nearest(vectors, centroids, np.empty(len(vectors), np.uint8), errors)
    if weights.size:
        errors *= weights
    chosen = [*centroids]
    while len(chosen) < k and errors.any():
        chosen.append(vectors[np.argmax(errors)].astype(np.float64))
        np.minimum(errors, _errors_to(vectors, weights, chosen[-1]), out=errors)
    return np.array(chosen)


def _errors_to(vectors: np.ndarray, weights: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the (weighted) squared distances of the vectors to `center`, float64 [n]."""
    errors = ((vectors - center) ** 2).sum(axis=1)
    return errors * weights if weights.size else errors

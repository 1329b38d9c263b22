"""Vector k-means: seeded, reproducible, without empty clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphpress.passes.clustering.errors import ClusteringError
from graphpress.passes.clustering.inputs import check_clusters, non_finite, read_floats, read_weights
from graphpress.passes.clustering.result import Clusters

if TYPE_CHECKING:
    from graphpress.passes.clustering.inputs import Floats

SAMPLE_PER_CLUSTER = 16
LEAST_SAMPLE = 2048
CANDIDATES = 4
MOST_STEPS = 60
LEAST_GAIN = 1e-4


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
    labels, errors = np.empty(size, np.uint8), np.empty(size)
    before = np.inf
    for _ in range(MOST_STEPS):
        error = kernels.lloyd_step(vectors, importance, centroids, labels, errors)
        if not error < before * (1 - LEAST_GAIN):
            break
        before = error
    table = centroids.astype(np.float32)
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


def _seeded(vectors: np.ndarray, weights: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Return centroids, float64 [k, d], chosen among the vectors; fewer only if fewer are distinct."""
    from graphpress.passes.clustering import vector_kernels as kernels

    sample, sample_weights = _sample(vectors, weights, max(LEAST_SAMPLE, SAMPLE_PER_CLUSTER * k), generator)
    centroids = kernels.seed_centroids(sample, sample_weights, k, generator.random((k, CANDIDATES)))
    if len(centroids) == k:
        return centroids
    more = [*centroids]
    errors = np.empty(len(vectors))
    kernels.nearest(vectors, centroids, np.empty(len(vectors), np.uint8), errors)
    while len(more) < k:
        centroid = np.empty(vectors.shape[1])
        if not kernels.seed_at_worst(vectors, weights, centroid, errors) > 0.0:
            break
        more.append(centroid)
    return np.array(more)


def _sample(
    vectors: np.ndarray, weights: np.ndarray, size: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return about `size` vectors and their weights, float64: a lightweight coreset (Bachem, Lucic and Krause, 2018).

    Half of the draws go by weight, half by weight times squared distance to the mean, and each drawn vector weighs
    the inverse of its probability.
    """
    masses = weights.astype(np.float64) if weights.size else np.ones(len(vectors))
    if len(vectors) <= size:
        return vectors, masses
    total = masses.sum()
    distances = np.zeros(len(vectors))
    for axis in range(vectors.shape[1]):
        distances += (vectors[:, axis] - np.dot(masses, vectors[:, axis]) / total) ** 2
    distances *= masses
    chances = masses / total
    if distances.any():
        chances = 0.5 * chances + 0.5 * distances / distances.sum()
    cumulated = np.cumsum(chances)
    places = np.searchsorted(cumulated, np.sort(generator.random(size)) * cumulated[-1], side="right")
    return vectors[places], masses[places] / (chances[places] * size)

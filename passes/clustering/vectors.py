"""Vector k-means: seeded, reproducible, without empty clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphpress.passes.clustering.errors import ClusteringError
from graphpress.passes.clustering.inputs import check_clusters, read_weights
from graphpress.passes.clustering.ordered_vectors import OrderedVectors, read_vectors
from graphpress.passes.clustering.result import Clusters

if TYPE_CHECKING:
    from graphpress.passes.clustering.inputs import Floats


def cluster_vectors(values: Floats, k: int, seed: int, weights: Floats | None = None) -> Clusters:
    """Cluster the rows of `values` [n, d] into `k` centroids [k, d] of small squared error.

    Greedy k-means++ on a weighted sample, which takes in vectors far out, then Lloyd steps; parts of a few such tables
    are spliced, and centroids of the best put elsewhere. Clusters that run empty are seeded again at the vector with
    the largest error. The result depends on nothing but the arguments.

    Args:
        values: [n, d], any floating dtype; finite.
        k: number of centroids, 1 to 256.
        seed: of the random draws, not negative.
        weights: importance of each vector, [n], not negative; all zero counts as no weights.

    Raises:
        ClusteringError: for values that are not finite, not two-dimensional, or weights that do not fit.
    """
    check_clusters(k)
    if len(values.shape) == 2 and not values.shape[0]:
        read_weights(weights, (0,))
        return Clusters(np.zeros((k, read_vectors(values, "values").shape[1]), np.float32), np.zeros(0, np.uint8), 0.0)
    vectors = OrderedVectors.of(values, weights)
    table = padded(vectors.centroids(k, seed), k)
    indices, error = vectors.assign(table)
    return Clusters(table, indices, error)


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
    if not len(vectors):
        return np.empty(0, np.uint8)
    from graphpress.passes.clustering import vector_blocks  # loads numba
    from graphpress.passes.clustering import vector_kernels as kernels

    indices = np.empty(len(vectors), np.uint8)
    order, axes = np.arange(len(vectors), dtype=np.int32), tuple(range(vectors.shape[1]))
    blocks = vector_blocks.blocks_of(vectors, np.empty(0, np.float32), order, axes)
    kernels.nearest(blocks, table.astype(np.float64), indices)
    return indices


def padded(centroids: np.ndarray, k: int) -> np.ndarray:
    """Centroids as a table of `k`, float32 [k, d]: where there are fewer, the last is repeated."""
    table = centroids.astype(np.float32)
    return np.concatenate([table, np.repeat(table[-1:], k - len(table), axis=0)])

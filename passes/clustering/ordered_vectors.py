"""Vectors in an order in which neighbours lie close together, which makes passes over them fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from graphpress.passes.clustering.cell_order import cell_order
from graphpress.passes.clustering.errors import ClusteringError
from graphpress.passes.clustering.inputs import check_clusters, non_finite, read_floats, read_weights

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


@frozen(eq=False)
class OrderedVectors:
    """Vectors and how much they count, ready for passes over them.

    Attributes:
        vectors: float32 [n, d], in order; n is not 0.
        weights: float32 [n], or [0] where every weight is one.
        order: int32 [n], where each of them stood.
    """

    vectors: np.ndarray
    weights: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, values: Floats, weights: Floats | None = None) -> OrderedVectors:
        """Copy the rows of `values` [n, d] into order; weights that are all zero count as none.

        Raises:
            ClusteringError: for values that are not finite, not two-dimensional, or weights that do not fit.
        """
        vectors = read_vectors(values, "values")
        importance = read_weights(weights, vectors.shape[:1])
        if importance is None or not importance.any():
            importance = np.empty(0, np.float32)
        order = cell_order(vectors)
        from graphpress.passes.clustering.cell_kernels import gathered  # loads numba

        return cls(gathered(vectors, order), importance[order] if importance.size else importance, order)

    def centroids(self, k: int, seed: int) -> np.ndarray:
        """Centroids of small squared error, float64 [at most k, d]: fewer only where fewer vectors are distinct.

        Greedy k-means++ on a weighted sample, which takes in vectors far out, then Lloyd steps. Depends on nothing but
        vectors, weights and arguments.

        Raises:
            ClusteringError: for a `k` that is not 1 to 256, or a seed that is negative.
        """
        check_clusters(k)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ClusteringError(f"seed is {seed!r}; it must be an integer that is not negative")
        centroids = self._seeded(k, np.random.default_rng(seed))
        stride = max(1, len(self.vectors) // max(LEAST_STRIDED, STRIDED_PER_CLUSTER * k))
        if stride == 1:
            self._lloyd(centroids, MOST_STEPS)
            return centroids
        # Neighbours are alike: every so many of them settle most steps.
        part = OrderedVectors(
            np.ascontiguousarray(self.vectors[::stride]), np.ascontiguousarray(self.weights[::stride]), self.order[:0]
        )
        part._lloyd(centroids, MOST_STEPS)
        self._lloyd(centroids, MOST_LAST_STEPS)
        return centroids

    def sums(self, table: np.ndarray) -> tuple[float, np.ndarray]:
        """The squared error against the nearest entries of `table` [k, d], and what there is nearest to each.

        Errors count by weight. The sums are float64 [k, d + 1]: weight times vector, and weight.
        """
        from graphpress.passes.clustering import vector_kernels as kernels

        return kernels.nearest_sums(self.vectors, self.weights, table.astype(np.float64))

    def assign(self, table: np.ndarray) -> tuple[np.ndarray, float]:
        """The index of the entry of `table` nearest to each vector as they stood, uint8 [n], and the squared error."""
        from graphpress.passes.clustering import vector_kernels as kernels

        labels = np.empty(len(self.vectors), np.uint8)
        error = kernels.nearest(self.vectors, self.weights, table.astype(np.float64), labels)
        indices = np.empty_like(labels)
        indices[self.order] = labels
        return indices, error

    def _lloyd(self, centroids: np.ndarray, steps: int) -> None:
        """Move `centroids` in place until they gain little or `steps` are made."""
        before = np.inf
        for _ in range(steps):
            error, sums = self.sums(centroids)
            if not error < before * (1 - LEAST_GAIN):
                break
            before = error
            held = sums[:, -1] > 0
            if not held.all():
                self._fill(centroids, np.flatnonzero(~held))
            centroids[held] = sums[held, :-1] / sums[held, -1:]

    def _fill(self, centroids: np.ndarray, empty: np.ndarray) -> None:
        """Put the `empty` centroids where errors are largest; the others are still those that errors are against."""
        from graphpress.passes.clustering import vector_kernels as kernels

        errors = kernels.nearest_errors(self.vectors, self.weights, centroids)
        for cluster in empty:
            centroids[cluster] = self.vectors[np.argmax(errors)]
            kernels.lower_errors(self.vectors, self.weights, centroids[cluster], errors)

    def _seeded(self, k: int, generator: np.random.Generator) -> np.ndarray:
        """Centroids, float64, chosen among the vectors; fewer than `k` only if fewer are distinct."""
        from graphpress.passes.clustering import seeding
        from graphpress.passes.clustering import vector_kernels as kernels

        vectors, weights = self.vectors, self.weights
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
        errors = kernels.nearest_errors(vectors, weights, centroids)
        chosen = [*centroids]
        while len(chosen) < k and errors.any():
            chosen.append(vectors[np.argmax(errors)].astype(np.float64))
            kernels.lower_errors(vectors, weights, chosen[-1], errors)
        return np.array(chosen)


def read_vectors(values: Floats, what: str) -> np.ndarray:
    """Return `values` as finite float32 [n, d]."""
    vectors = read_floats(values, what)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ClusteringError(f"{what} have shape {vectors.shape}; vectors are rows: [n, d]")
    if vectors.size and not np.isfinite([vectors.min(), vectors.max()]).all():
        raise non_finite(int(np.count_nonzero(~np.isfinite(vectors))), vectors.size, what)
    return vectors

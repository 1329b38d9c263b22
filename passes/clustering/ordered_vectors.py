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
LEAST_STRIDED = 32768
FEW = 64  # clusters
ATTEMPTS_OF_FEW, ATTEMPTS = 4, 2
SWAP_WORK, MOST_SWAPS = 3_000_000, 200  # the work of a turn is vectors times clusters
STEPS_OF_SWAP = 8
LEAST_MISSED = 8
MOST_STEPS = 60
MOST_LAST_STEPS = 30
LEAST_GAIN, LEAST_LAST_GAIN = 2e-4, 1e-5


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

        The best of a few attempts, each greedy k-means++ on a weighted sample, which takes in vectors far out, then
        Lloyd steps; then random swaps. Depends on nothing but vectors, weights and arguments.

        Raises:
            ClusteringError: for a `k` that is not 1 to 256, or a seed that is negative.
        """
        check_clusters(k)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ClusteringError(f"seed is {seed!r}; it must be an integer that is not negative")
        generator = np.random.default_rng(seed)
        part = self._part(k)
        attempts = [self._attempt(part, k, generator) for _ in range(ATTEMPTS_OF_FEW if k <= FEW else ATTEMPTS)]
        error, centroids = min(attempts, key=lambda attempt: attempt[0])
        centroids = part._swapped(centroids, error, generator)
        if part is not self:
            self._lloyd(centroids, MOST_LAST_STEPS, LEAST_LAST_GAIN)
        return centroids

    def _part(self, k: int) -> OrderedVectors:
        """Every so many of the vectors, as neighbours are alike: enough to settle most steps for `k` centroids."""
        stride = max(1, len(self.vectors) // max(LEAST_STRIDED, STRIDED_PER_CLUSTER * k))
        if stride == 1:
            return self
        return OrderedVectors(
            np.ascontiguousarray(self.vectors[::stride]), np.ascontiguousarray(self.weights[::stride]), self.order[:0]
        )

    def _attempt(self, part: OrderedVectors, k: int, generator: np.random.Generator) -> tuple[float, np.ndarray]:
        """Seed centroids among all vectors, and settle them among those of `part`; with their squared error there."""
        centroids = self._seeded(k, generator)
        part._lloyd(centroids, MOST_STEPS)
        error, _ = part.sums(centroids)
        return error, centroids

    def _swapped(self, centroids: np.ndarray, error: float, generator: np.random.Generator) -> np.ndarray:
        """Centroids that are at least as good: some are put elsewhere in turn, where that lowers the squared error.

        Random swaps (Fränti, 2018): the centroid that is missed least goes to a vector drawn by its error, and a few
        Lloyd steps decide. There are fewer turns the longer one takes.
        """
        from graphpress.passes.clustering import vector_kernels as kernels

        k = len(centroids)
        turns = min(MOST_SWAPS, SWAP_WORK // (len(self.vectors) * k)) if k > 1 else 0
        for _ in range(turns):
            errors = kernels.nearest_errors(self.vectors, self.weights, centroids).astype(np.float64) ** 2
            total = errors.sum()
            if not total > 0:
                break
            place = min(int(np.searchsorted(np.cumsum(errors), generator.random() * total)), len(errors) - 1)
            _, sums = self.sums(centroids)
            trial = centroids.copy()
            trial[_least_missed(centroids, sums[:, -1], generator.random())] = self.vectors[place]
            self._lloyd(trial, STEPS_OF_SWAP)
            now, _ = self.sums(trial)
            if now < error:
                error, centroids = now, trial
        self._lloyd(centroids, MOST_STEPS, LEAST_LAST_GAIN)
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

    def _lloyd(self, centroids: np.ndarray, steps: int, least_gain: float = LEAST_GAIN) -> None:
        """Move `centroids` in place until they gain no more than that share or `steps` are made."""
        before = np.inf
        for _ in range(steps):
            error, sums = self.sums(centroids)
            if not error < before * (1 - least_gain):
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


def _least_missed(centroids: np.ndarray, masses: np.ndarray, draw: float) -> int:
    """Which of the centroids costs least when its vectors go to its neighbour; of the first few one is drawn."""
    distances = ((centroids[:, None] - centroids[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    neighbours = distances.argmin(1)
    both = masses + masses[neighbours]
    costs = masses * masses[neighbours] / np.where(both > 0, both, 1) * distances.min(1)
    return int(np.argsort(costs, kind="stable")[int(draw * min(LEAST_MISSED, len(costs)))])


def read_vectors(values: Floats, what: str) -> np.ndarray:
    """Return `values` as finite float32 [n, d]."""
    vectors = read_floats(values, what)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ClusteringError(f"{what} have shape {vectors.shape}; vectors are rows: [n, d]")
    if vectors.size and not np.isfinite([vectors.min(), vectors.max()]).all():
        raise non_finite(int(np.count_nonzero(~np.isfinite(vectors))), vectors.size, what)
    return vectors

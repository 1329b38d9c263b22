"""Vector k-means: seeded, reproducible, without empty clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from graphpress.passes.clustering.inputs import (
    ClusteringError,
    Clusters,
    check_clusters,
    non_finite,
    read_floats,
    read_weights,
)
from graphpress.passes.clustering.scalar import assign_groups

if TYPE_CHECKING:
    from graphpress.passes.clustering.inputs import Floats
    from graphpress.passes.clustering.vector_kernels import VectorBlocks


# For the cell order: total bits, bits per axis, and the size of the sample from which an axis is cut.
MOST_BITS = 18
MOST_BITS_OF_AXIS = 8
SAMPLE_OF_AXIS = 4096
SAMPLE_PER_CLUSTER = 8
LEAST_SAMPLE = 1024
CANDIDATES = 3
STRIDED_PER_CLUSTER = 128
LEAST_STRIDED = 65536
LEAST_ATTEMPTS, MOST_ATTEMPTS, WORK_OF_ATTEMPTS = 2, 12, 24_000_000
MOST_TURNS, WORK_OF_TURNS = 100, 20_000_000_000  # per cluster and axis; distances computed times clusters
MOST_SPLICES = 100
STEPS_OF_TURN, LEAST_GAIN_OF_TURN, MOST_LEFT = 30, 1e-4, 2.5
RELAXATION = 1.9
MOST_STEPS = 60
LEAST_GAIN, LEAST_LAST_GAIN = 5e-3, 1e-7


@frozen
class Effort:
    """The effort of a search for centroids.

    Attributes:
        attempts: tables that are seeded; None depends on the number of vectors.
        candidates: candidates that greedy k-means++ compares for each centroid.
        steps: Lloyd steps of a refinement, at most.
        least_gain: a step of the last refinement that gains less than this fraction of the error ends it.
    """

    attempts: int | None = None
    candidates: int = CANDIDATES
    steps: int = MOST_STEPS
    least_gain: float = LEAST_LAST_GAIN


@frozen(eq=False)
class OrderedVectors:
    """Weighted vectors, reordered into blocks of neighbours.

    Attributes:
        blocks: the vectors [n, d] in order, and their weights; n is not 0.
        order: int32 [n], the original position of each vector.
    """

    blocks: VectorBlocks
    order: np.ndarray

    @classmethod
    def of(cls, values: Floats, weights: Floats | None = None) -> OrderedVectors:
        """Reorder the rows of `values` [n, d] into blocks; weights that are all zero are ignored.

        Raises:
            ClusteringError: if values are not finite or not two-dimensional, or weights do not fit.
        """
        vectors = read_vectors(values, "values")
        importance = read_weights(weights, vectors.shape[:1])
        if importance is None or not importance.any():
            importance = np.empty(0, np.float32)
        order = cell_order(vectors)
        from graphpress.passes.clustering import vector_kernels

        if importance.size:
            importance = importance[order]
        return cls(vector_kernels.blocks_of(vectors, importance, order, tuple(range(vectors.shape[1]))), order)

    def centroids(self, k: int, seed: int, effort: Effort | None = None) -> np.ndarray:
        """Return centroids of small squared error, float64 [k, d]; fewer if fewer vectors are distinct.

        A few attempts, each by greedy k-means++ on a weighted sample followed by Lloyd steps, are spliced, and
        centroids of the best are swapped. Deterministic for given vectors, weights and arguments.

        Raises:
            ClusteringError: if `k` is not from 1 to 256, or the seed is negative.
        """
        check_clusters(k)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ClusteringError(f"seed is {seed!r}; it must be an integer that is not negative")
        generator = np.random.default_rng(seed)
        sample, masses = self._sample(k, generator)
        effort = effort or Effort()
        part = self._part(k, sample)
        count = effort.attempts or min(max(WORK_OF_ATTEMPTS // part._work(k), LEAST_ATTEMPTS), MOST_ATTEMPTS)
        attempts = self._seeded(k, count, effort.candidates, sample, masses, generator)
        for centroids in attempts:
            part._settle(centroids, effort.steps, LEAST_GAIN)
        centroids = part._searched(attempts, generator)
        part._settle(centroids, effort.steps, effort.least_gain)
        if part is not self:
            self._settle(centroids, effort.steps, LEAST_GAIN)
            centroids = self._searched(centroids[None], generator)
            self._settle(centroids, effort.steps, effort.least_gain)
        return centroids

    def sums(self, table: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the weighted squared error against the nearest entries of `table` [k, d], and the sums of each
        cluster.

        The sums are float64 [k, d + 1]: weight times vector, then weight.
        """
        from graphpress.passes.clustering import vector_kernels

        return vector_kernels.nearest_sums(self.blocks, table.astype(np.float64))

    def assign(self, table: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the index of the nearest entry of `table` per vector, uint8 [n], and the squared error.

        Indices are in the original order of the vectors.
        """
        from graphpress.passes.clustering import vector_kernels

        labels = np.empty(self.blocks.size, np.uint8)
        error = vector_kernels.nearest(self.blocks, table.astype(np.float64), labels)
        indices = np.empty_like(labels)
        indices[self.order] = labels
        return indices, error

    def _sample(self, k: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a weighted sample for seeding: positions, int64 [m], and weights."""
        from graphpress.passes.clustering import search_kernels

        blocks, size = self.blocks, max(LEAST_SAMPLE, SAMPLE_PER_CLUSTER * k)
        if blocks.size > size:
            return search_kernels.coreset(blocks, np.sort(generator.random(size)))
        weights = blocks.weights.astype(np.float64) if blocks.weights.size else np.ones(blocks.size)
        return np.arange(blocks.size), weights

    def _part(self, k: int, sample: np.ndarray) -> OrderedVectors:
        """Return a subset for the first Lloyd steps: every n-th vector, since neighbours are similar.

        The vectors of `sample`, which include the outliers, are added with weights of their own only.
        """
        stride = max(1, self.blocks.size // max(LEAST_STRIDED, STRIDED_PER_CLUSTER * k))
        if stride == 1:
            return self
        from graphpress.passes.clustering import vector_kernels

        places = np.union1d(np.arange(0, self.blocks.size, stride), sample)
        weights = np.where(places % stride, 1, stride).astype(np.float32)
        if self.blocks.weights.size:
            weights *= self.blocks.weights[places]
        vectors = vector_kernels.vectors_at(self.blocks, places)
        order = np.arange(len(vectors), dtype=np.int32)
        return OrderedVectors(vector_kernels.blocks_of(vectors, weights, order, self.blocks.axes), order)

    def _work(self, k: int) -> int:
        """Return the maximum number of coordinates that a Lloyd step compares with `k` centroids."""
        return self.blocks.size * k * len(self.blocks.axes)

    def _searched(self, attempts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return centroids whose squared error is at most that of the best of `attempts` [p, k, d].

        The number of turns decreases with their cost and with the number of centroids, since one of many changes
        little.
        """
        from graphpress.passes.clustering import search_kernels

        count, k, axes = attempts.shape
        turns = min(MOST_TURNS * k // axes**2, WORK_OF_TURNS // (self._work(k) * k))
        splices = min(MOST_SPLICES, turns // 2) if count > 1 else 0
        how = search_kernels.Trial(STEPS_OF_TURN, LEAST_GAIN_OF_TURN, MOST_LEFT, RELAXATION)
        directions = generator.standard_normal((splices, axes))
        search_kernels.spliced(self.blocks, attempts, generator.random((splices, 3)), directions, how)
        return search_kernels.swapped(self.blocks, attempts[0], generator.random((turns - splices, 2)), how)

    def _settle(self, centroids: np.ndarray, steps: int, least_gain: float) -> None:
        """Move `centroids` in place by Lloyd steps until one gains less than `least_gain`, or for `steps` steps.

        Steps are overrelaxed, which saves steps if successive ones have the same direction.
        """
        before = np.inf
        for step in range(steps):
            error, sums = self.sums(centroids)
            held = sums[:, -1] > 0
            if not held.all():
                self._fill(centroids, np.flatnonzero(~held))
            means = sums[held, :-1] / sums[held, -1:]
            if not error < before * (1 - least_gain):
                centroids[held] = means
                break
            before = error
            centroids[held] += (RELAXATION if step else 1.0) * (means - centroids[held])

    def _fill(self, centroids: np.ndarray, empty: np.ndarray) -> None:
        """Move the `empty` centroids to the largest errors, which are those of the other centroids."""
        from graphpress.passes.clustering import vector_kernels

        errors = vector_kernels.nearest_errors(self.blocks, centroids)
        for cluster in empty:
            centroids[cluster] = vector_kernels.vectors_at(self.blocks, np.array([errors.argmax()]))[0]
            vector_kernels.lower_errors(self.blocks, centroids[cluster], errors)

    def _seeded(
        self,
        k: int,
        attempts: int,
        candidates: int,
        sample: np.ndarray,
        masses: np.ndarray,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """Return seeds, float64 [attempts, k, d]; fewer than k only if fewer vectors are distinct."""
        from graphpress.passes.clustering import search_kernels, vector_kernels

        blocks = self.blocks
        columns = np.ascontiguousarray(vector_kernels.vectors_at(blocks, sample).T, dtype=np.float64)
        tables = []
        for _ in range(attempts):
            chosen = [*search_kernels.seed_centroids(columns, masses, k, generator.random((k, candidates)))]
            if len(chosen) < k:
                errors = vector_kernels.nearest_errors(blocks, np.array(chosen))
                while len(chosen) < k and errors.any():
                    chosen.append(vector_kernels.vectors_at(blocks, np.array([errors.argmax()]))[0].astype(np.float64))
                    vector_kernels.lower_errors(blocks, chosen[-1], errors)
            tables.append(chosen)
        most = max(len(table) for table in tables)
        return np.array([table for table in tables if len(table) == most])


def read_vectors(values: Floats, what: str) -> np.ndarray:
    """Return `values` as finite float32 [n, d]."""
    vectors = read_floats(values, what)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ClusteringError(f"{what} have shape {vectors.shape}; vectors are rows: [n, d]")
    if vectors.size and not np.isfinite([vectors.min(), vectors.max()]).all():
        raise non_finite(int(np.count_nonzero(~np.isfinite(vectors))), vectors.size, what)
    return vectors


def cluster_vectors(values: Floats, k: int, seed: int, weights: Floats | None = None) -> Clusters:
    """Cluster the rows of `values` [n, d] into `k` centroids [k, d] of small squared error.

    Greedy k-means++ on a weighted sample, then Lloyd steps; a few such tables are spliced, and centroids of the best
    are swapped. Empty clusters are reseeded at the vector with the largest error. Deterministic for given arguments.

    Args:
        values: [n, d], any floating dtype; finite.
        k: number of centroids, 1 to 256.
        seed: seed of the random draws, not negative.
        weights: importance of each vector, [n], not negative; ignored if all are zero.

    Raises:
        ClusteringError: if values are not finite or not two-dimensional, or weights do not fit.
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
    """Return the index of the nearest row of `centroids` [k, d] for each row of `values` [n, d], uint8 [n].

    Distances are compared in float64; ties go to the lower index.

    Raises:
        ClusteringError: if values or centroids are not finite, or shapes do not agree.
    """
    vectors, table = read_vectors(values, "values"), read_vectors(centroids, "centroids")
    check_clusters(len(table))
    if vectors.shape[1] != table.shape[1]:
        raise ClusteringError(
            f"values have shape {vectors.shape} and centroids {table.shape}; the last axes must be equal"
        )
    if not len(vectors):
        return np.empty(0, np.uint8)
    from graphpress.passes.clustering import vector_kernels

    indices = np.empty(len(vectors), np.uint8)
    order, axes = np.arange(len(vectors), dtype=np.int32), tuple(range(vectors.shape[1]))
    blocks = vector_kernels.blocks_of(vectors, np.empty(0, np.float32), order, axes)
    vector_kernels.nearest(blocks, table.astype(np.float64), indices)
    return indices


def padded(centroids: np.ndarray, k: int) -> np.ndarray:
    """Return `centroids` as a table of `k` entries, float32 [k, d], with the last centroid repeated as padding."""
    table = centroids.astype(np.float32)
    return np.concatenate([table, np.repeat(table[-1:], k - len(table), axis=0)])


def cell_order(vectors: np.ndarray) -> np.ndarray:
    """Return an order, int32 [n], in which neighbouring vectors are close, for finite float32 `vectors` [n, d].

    Each axis is cut into cells by scalar k-means of a sample, so that cells are narrow where a quantizer's are. Cells
    are ordered along Morton's curve (1966), by the interleaved bits of the cell numbers. n is not 0.
    """
    from graphpress.passes.clustering import scalar_kernels, vector_kernels

    size = len(vectors)
    axes = min(vectors.shape[1], MOST_BITS)
    bits = min(MOST_BITS // axes, MOST_BITS_OF_AXIS)
    step = max(1, size // SAMPLE_OF_AXIS)
    codes = np.zeros(size, np.uint32)
    for axis in range(axes):
        column = np.ascontiguousarray(vectors[:, axis])
        sample = np.sort(column[::step])
        table = scalar_kernels.fit_rows(sample[None], np.empty((1, 0), np.float32), 1 << bits)
        vector_kernels.interleave(assign_groups(column[None], table)[0], axis, axes, codes)
    return vector_kernels.counted_order(codes, 1 << (axes * bits))

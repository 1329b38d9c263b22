"""Vector k-means is reproducible, leaves no cluster empty and comes near repeated careful seeding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.passes.clustering import ClusteringError, assign_vectors, cluster_vectors, vectors

rng = np.random.default_rng(3)
normal = rng.standard_normal((3000, 2)).astype(np.float32)


def squared_distances(values, centroids):
    return ((values.astype(np.float64)[:, None, :] - centroids.astype(np.float64)) ** 2).sum(axis=2)


def assert_sound(values, k, clusters, weights=None):
    assert clusters.centroids.shape == (k, values.shape[1])
    assert clusters.centroids.dtype == np.float32
    assert clusters.indices.dtype == np.uint8
    distances = squared_distances(values, clusters.centroids)
    assert (distances.argmin(axis=1) == clusters.indices).all()
    least = distances.min(axis=1)
    assert clusters.sse == pytest.approx(float((least if weights is None else least * weights).sum()), rel=1e-9)


SCALES = st.sampled_from([1, 1e-8, 1e-43, 1e30])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 200), st.integers(1, 20), st.integers(0, 2**32), SCALES)
def test_every_vector_goes_to_its_nearest_centroid(dimensions, size, k, seed, scale):
    values = (np.random.default_rng(seed).standard_normal((size, dimensions)).round(1) * scale).astype(np.float32)
    assert_sound(values, k, cluster_vectors(values, k, seed))


@pytest.mark.parametrize(("k", "dimensions"), [(16, 2), (64, 4)])
def test_the_error_is_near_that_of_the_best_of_several_careful_runs(k, dimensions):
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    values = rng.standard_t(5, (3000, dimensions)).astype(np.float32)
    with threadpool_limits(1):
        best = KMeans(k, n_init=3, random_state=0).fit(values).inertia_
    assert cluster_vectors(values, k, 0).sse < best * 1.05


@pytest.mark.parametrize(("k", "dimensions"), [(16, 2), (16, 4), (256, 4)])
def test_attempts_splices_and_swaps_lower_the_error_of_heavy_tails(k, dimensions, monkeypatch):
    values = np.random.default_rng(3).standard_t(3, (8192, dimensions)).astype(np.float32)
    better = [cluster_vectors(values, k, seed).sse for seed in range(4)]
    for name, value in (("LEAST_ATTEMPTS", 1), ("MOST_ATTEMPTS", 1), ("WORK_OF_TURNS", 0)):
        monkeypatch.setattr(vectors, name, value)
    once = [cluster_vectors(values, k, seed).sse for seed in range(4)]
    assert sum(better) < sum(once)
    assert max(better) <= max(once)


def test_one_seed_gives_one_result_and_another_seed_another():
    first, second, other = (cluster_vectors(normal, 32, seed) for seed in (5, 5, 6))
    assert (first.centroids == second.centroids).all()
    assert (first.indices == second.indices).all()
    assert (first.centroids != other.centroids).any()


def test_no_cluster_is_left_empty():
    clumps = np.repeat(normal[:40] * 1000, 50, axis=0) + normal[:2000] * 1e-3
    clusters = cluster_vectors(clumps.astype(np.float32), 64, 0)
    assert len(np.unique(clusters.indices)) == 64


def test_weights_count_as_repetitions():
    weights = rng.integers(0, 4, 3000)
    clusters = cluster_vectors(normal, 16, 0, weights=weights.astype(np.float32))
    assert_sound(normal, 16, clusters, weights)
    repeated = cluster_vectors(np.repeat(normal, weights, axis=0), 16, 0)
    assert clusters.sse == pytest.approx(repeated.sse, rel=0.1)


def test_far_vectors_are_not_lost_in_a_large_tensor():
    size = 3 * vectors.LEAST_STRIDED  # most steps see every third
    values = rng.standard_normal((size, 2)).astype(np.float32)
    values[[77, size - 2]] = [[1e5, 0], [0, -1e5]]
    assert cluster_vectors(values, 16, 0).sse < size


@pytest.mark.parametrize("weighted", [False, True])
def test_a_part_of_the_vectors_stands_for_all_where_tails_are_heavy(weighted, monkeypatch):
    generator = np.random.default_rng(1)
    values = generator.standard_t(1.5, (60_000, 2)).astype(np.float32)
    weights = generator.random(60_000).astype(np.float32) if weighted else None
    whole = cluster_vectors(values, 64, 0, weights).sse
    monkeypatch.setattr(vectors, "LEAST_STRIDED", 8192)
    assert cluster_vectors(values, 64, 0, weights).sse < 1.02 * whole


def test_fewer_distinct_vectors_than_clusters_are_kept_exactly_and_the_last_is_repeated():
    values = np.repeat(normal[:5], 4000, axis=0)
    clusters = cluster_vectors(values, 16, 0)
    assert clusters.sse == 0
    assert (clusters.centroids[clusters.indices] == values).all()
    assert (clusters.centroids[5:] == clusters.centroids[4]).all()
    assert clusters.indices.max() == 4


def test_no_vectors_give_a_table_of_zeros():
    clusters = cluster_vectors(np.empty((0, 2), np.float32), 4, 0)
    assert clusters.centroids.tolist() == [[0, 0]] * 4
    assert clusters.indices.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_every_floating_dtype_are_clustered_as_their_float32_values(dtype):
    values = torch.from_numpy(normal).to(dtype)
    assert_sound(values.float().numpy(), 8, cluster_vectors(values, 8, 0))


def test_given_centroids_take_their_nearest_vectors_and_ties_go_to_the_lower_index():
    centroids = np.array([[0, 0], [2, 0], [2, 0], [0, 2]], np.float32)
    values = np.array([[1, 0], [1, 1], [2, 0], [3, 0], [0, 1.5]], np.float32)
    assert assign_vectors(values, centroids).tolist() == [0, 0, 1, 1, 3]
    many = rng.standard_normal((100, 2)).astype(np.float32)
    assert (assign_vectors(normal, many) == squared_distances(normal, many).argmin(axis=1)).all()


@pytest.mark.parametrize(
    ("values", "k", "seed", "weights", "message"),
    [
        (normal, 0, 0, None, "from 1 to 256"),
        (normal, 4, -1, None, "not negative"),
        (normal, 4, None, None, "seed is None"),
        (normal[:, 0], 4, 0, None, "vectors are rows"),
        (normal, 4, 0, np.ones(5), "shape"),
        (np.full((4, 2), np.nan, np.float32), 4, 0, None, "8 of 8 values"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, k, seed, weights, message):
    with pytest.raises(ClusteringError, match=message):
        cluster_vectors(values, k, seed, weights)


def test_centroids_of_another_length_are_refused():
    with pytest.raises(ClusteringError, match="the last axes must be equal"):
        assign_vectors(normal, np.ones((4, 3), np.float32))

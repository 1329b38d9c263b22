"""Scalar k-means is near the exact optimum, whatever the values look like."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import kmeans1d
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.passes.clustering import ClusteringError, cluster_groups, cluster_scalar

NEAR = 1 + 1e-3


def exact_optimum(values, k, weights=None):
    """The least squared error by the oracle, its centroids stored as float32; integer weights are expanded."""
    expanded = np.asarray(values, np.float64).ravel()
    if weights is not None:
        expanded = np.repeat(expanded, np.asarray(weights).ravel())
    _, centroids = kmeans1d.cluster(expanded, min(k, len(np.unique(expanded))))
    table = np.array(centroids, np.float32).astype(np.float64)
    return float((np.abs(expanded[:, None] - table).min(axis=1) ** 2).sum())


def squared_error(values, clusters, weights=None):
    errors = (np.asarray(values, np.float64) - clusters.centroids[clusters.indices]) ** 2
    return float((errors if weights is None else errors * weights).sum())


def assert_sound(values, k, clusters, weights=None):
    """The table ascends, each index is of a nearest centroid, and the reported error is the true one."""
    values = np.asarray(values)
    assert clusters.centroids.shape == (k,)
    assert clusters.centroids.dtype == np.float32
    assert clusters.indices.shape == values.shape
    assert clusters.indices.dtype == np.uint8
    assert (np.diff(clusters.centroids) >= 0).all()
    distances = np.abs(values.astype(np.float64)[..., None] - clusters.centroids.astype(np.float64))
    assert (distances.argmin(axis=-1) == clusters.indices).all()
    assert clusters.sse == pytest.approx(squared_error(values, clusters, weights), rel=1e-9)


finite = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=1, max_size=80), st.integers(1, 12))
def test_any_short_list_is_clustered_near_the_optimum(values, k):
    values = np.array(values, np.float32)
    clusters = cluster_scalar(values, k)
    assert_sound(values, k, clusters)
    rounding = 1e-14 * float((values.astype(np.float64) ** 2).sum())  # of the centroids to float32
    assert clusters.sse <= exact_optimum(values, k) * NEAR + rounding


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(finite, st.integers(0, 6)), min_size=1, max_size=60), st.integers(1, 8))
def test_weights_count_as_repetitions(pairs, k):
    values = np.array([value for value, _ in pairs], np.float32)
    weights = np.array([weight for _, weight in pairs])
    if not weights.any():
        return
    clusters = cluster_scalar(values, k, weights=weights.astype(np.float32))
    assert_sound(values, k, clusters, weights)
    rounding = 1e-14 * float((weights * values.astype(np.float64) ** 2).sum())
    assert clusters.sse <= exact_optimum(values, k, weights) * NEAR + rounding


rng = np.random.default_rng(7)
normal = rng.standard_normal(3000)
DISTRIBUTIONS = {
    "normal": normal,
    "uniform": rng.random(3000),
    "heavy tails": rng.standard_t(2, 3000),
    "Cauchy": rng.standard_cauchy(3000),
    "all negative": -rng.exponential(size=3000),
    "spread of 1e-4": normal * 1e-4,
    "spread of 2e-5": normal * 2e-5,
    "tiny spread": normal * 1e-8,
    "tiny spread away from zero": 1 + normal * 1e-6,
    "huge": normal * 1e30,
    "denormal": normal * 1e-41,
    "one outlier": np.r_[normal, 1e4],
    "one gigantic outlier on each side": np.r_[-1e30, normal, 2e30],
    "mostly zeros": normal * (rng.random(3000) < 0.3),
    "mostly one far constant": np.where(rng.random(3000) < 0.6, 1.0, normal * 1e-9),
    "two far clumps": np.where(rng.random(3000) < 0.5, -1, 1) + normal * 1e-6,
    "rounded": normal.round(1),
    "few distinct values": rng.choice([-3.0, -0.1, 0.0, 0.1, 7.0], 3000),
    "all the same": np.full(3000, -0.3),
    "an outlier among equals": np.r_[np.full(2999, 0.1), 1e6],
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("k", [2, 16, 64, pytest.param(256, marks=pytest.mark.slow)])
def test_adversarial_distributions_are_clustered_near_the_optimum(name, k):
    values = DISTRIBUTIONS[name].astype(np.float32)
    clusters = cluster_scalar(values, k)
    assert_sound(values, k, clusters)
    assert clusters.sse <= exact_optimum(values, k) * NEAR


def test_fewer_distinct_values_than_clusters_are_kept_exactly_and_the_last_is_repeated():
    clusters = cluster_scalar(np.array([[3.0, -1.0], [3.0, 0.5]], np.float32), 6)
    assert clusters.centroids.tolist() == [-1, 0.5, 3, 3, 3, 3]
    assert clusters.indices.tolist() == [[2, 0], [2, 1]]
    assert clusters.sse == 0


def test_a_constant_is_its_own_table():
    clusters = cluster_scalar(np.full(100, 0.1, np.float32), 4)
    assert (clusters.centroids == np.float32(0.1)).all()
    assert not clusters.indices.any()


def test_no_values_give_a_table_of_zeros():
    clusters = cluster_scalar(np.empty((0, 3), np.float32), 4)
    assert clusters.centroids.tolist() == [0, 0, 0, 0]
    assert clusters.indices.shape == (0, 3)
    assert clusters.sse == 0


def test_each_group_is_clustered_as_if_alone():
    values = rng.standard_normal((5, 400)).astype(np.float32) * np.arange(1, 6, dtype=np.float32)[:, None]
    weights = rng.random((5, 400)).astype(np.float32)
    for importance in (None, weights):
        grouped = cluster_groups(values, 16, weights=importance)
        for group in range(5):
            alone = cluster_scalar(values[group], 16, None if importance is None else importance[group])
            assert (grouped.centroids[group] == alone.centroids).all()
            assert (grouped.indices[group] == alone.indices).all()
            assert grouped.sse[group] == alone.sse


def test_a_group_without_any_weight_is_clustered_without_weights():
    values = rng.standard_normal((2, 300)).astype(np.float32)
    grouped = cluster_groups(values, 8, weights=np.stack([np.zeros(300), np.ones(300)]))
    assert (grouped.centroids[0] == cluster_scalar(values[0], 8).centroids).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_tensors_of_every_floating_dtype_are_clustered_as_their_float32_values(dtype):
    values = torch.from_numpy(rng.standard_normal((40, 50)).astype(np.float32)).to(dtype)
    clusters = cluster_scalar(values.requires_grad_(), 16)
    assert_sound(values.detach().float().numpy(), 16, clusters)
    assert clusters.sse <= exact_optimum(values.detach().float().numpy(), 16) * NEAR + 1e-12


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_16_bit_values_are_clustered_by_counts_as_well_as_by_sorting(dtype, weighted):
    values = torch.from_numpy(rng.standard_t(4, (2, 140_000)).astype(np.float32)).to(dtype)
    weights = rng.random((2, 140_000)).astype(np.float32) if weighted else None
    counted = cluster_groups(values, 16, weights)
    ordered = cluster_groups(values.float(), 16, weights)
    assert counted.centroids == pytest.approx(ordered.centroids, rel=0.02, abs=0.02)
    assert counted.sse == pytest.approx(ordered.sse, rel=1e-4)
    errors = (values.float().numpy() - np.take_along_axis(counted.centroids, counted.indices.astype(int), 1)) ** 2.0
    assert counted.sse == pytest.approx((errors if weights is None else errors * weights).sum(axis=1), rel=1e-5)


def test_counts_refuse_values_that_are_not_finite_and_keep_few_distinct_ones():
    values = np.tile(np.array([0.5, -2.0, 0.0, -0.0], np.float16), 40_000)
    clusters = cluster_scalar(values, 4)
    assert clusters.centroids.tolist() == [-2, 0, 0.5, 0.5]
    assert clusters.sse == 0
    assert (clusters.centroids[clusters.indices] == values).all()
    values[5] = np.inf
    with pytest.raises(ClusteringError, match="1 of 160000 values"):
        cluster_scalar(values, 4)


def test_threads_at_work_at_once_do_not_change_results():
    tensors = [rng.standard_normal((4, 2000)).astype(np.float32) for _ in range(6)]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda tensor: cluster_groups(tensor, 16), tensors))
    for tensor, grouped in zip(tensors, at_once, strict=True):
        alone = cluster_groups(tensor, 16)
        assert (grouped.centroids == alone.centroids).all()
        assert (grouped.indices == alone.indices).all()
        assert (grouped.sse == alone.sse).all()


def test_a_transposed_view_is_clustered_like_its_copy():
    values = rng.standard_normal((30, 20)).astype(np.float32)
    assert (cluster_scalar(values.T, 8).indices == cluster_scalar(values.T.copy(), 8).indices).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_refused(bad, dtype):
    values = np.ones(50, dtype)
    values[7] = bad
    with pytest.raises(ClusteringError, match="1 of 50 values"):
        cluster_scalar(values, 4)


@pytest.mark.parametrize(
    ("values", "k", "weights", "message"),
    [
        (np.ones(4, np.float32), 0, None, "from 1 to 256"),
        (np.ones(4, np.float32), 257, None, "from 1 to 256"),
        (np.ones(4, np.float32), 2.0, None, "from 1 to 256"),
        (np.ones(4, np.int32), 2, None, "a floating dtype is needed"),
        (np.full(4, 1e300), 2, None, "beyond float32"),
        (np.ones(4, np.float32), 2, -np.ones(4), "not negative"),
        (np.ones(4, np.float32), 2, np.full(4, np.nan), "finite"),
        (np.ones(4, np.float32), 2, np.ones(5), "shape"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, k, weights, message):
    with pytest.raises(ClusteringError, match=message):
        cluster_scalar(values, k, weights)


def to_eighths(tables):
    return np.round(tables * 8) / 8


def test_snapped_tables_hold_what_snapping_gives_and_values_go_to_their_nearest_entry():
    values = rng.standard_normal((3, 500)).astype(np.float32)
    grouped = cluster_groups(values, 16, snap=to_eighths)
    assert (grouped.centroids == to_eighths(grouped.centroids)).all()
    distances = np.abs(values[:, :, None] - grouped.centroids[:, None, :])
    assert (distances.argmin(axis=2) == grouped.indices).all()


def test_snapping_is_never_worse_than_snapping_the_best_table():
    def per_tensor(tables):
        scale = np.abs(tables).max() / 7
        return (np.round(tables / scale) * scale).astype(np.float32)

    for k in (4, 16, 64):
        values = rng.standard_t(4, (2, 700)).astype(np.float32)
        plain = per_tensor(cluster_groups(values, k).centroids)
        distances = np.abs(values[:, :, None].astype(np.float64) - plain[:, None, :])
        assert cluster_groups(values, k, snap=per_tensor).sse.sum() <= (distances.min(axis=2) ** 2).sum() * (1 + 1e-12)


def test_a_snap_that_changes_the_shape_is_refused():
    with pytest.raises(ClusteringError, match="shape"):
        cluster_scalar(np.arange(20, dtype=np.float32), 4, snap=lambda tables: tables[:, :2])

"""Values go to the nearest of given centroids, exactly, ties to the lower index."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.passes.clustering import ClusteringError, assign_scalar

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
small = st.integers(-8, 8).map(lambda number: number / 4)


def nearest(value, centroids):
    """The lowest index of a nearest centroid, in exact arithmetic."""
    distances = [abs(Fraction(float(value)) - Fraction(float(centroid))) for centroid in centroids]
    return distances.index(min(distances))


@settings(max_examples=60, deadline=None)
@given(st.lists(floats | small, max_size=30), st.lists(floats | small, min_size=1, max_size=20), st.data())
def test_each_value_goes_to_the_first_of_its_nearest_centroids(values, centroids, data):
    centroids = np.array(centroids, np.float32)
    middles = 0.5 * centroids + 0.5 * np.array(data.draw(st.permutations(centroids.tolist())))
    values = np.concatenate([np.array(values, np.float32), centroids, middles.astype(np.float32)])
    assert assign_scalar(values, centroids).tolist() == [nearest(value, centroids) for value in values]


@pytest.mark.parametrize("spread", [1e-42, 1e-8, 1, 1e30])
@pytest.mark.parametrize("offset", [0, 1])
def test_many_values_and_crowded_centroids_agree_with_a_search(spread, offset):
    rng = np.random.default_rng(0)
    values = (rng.standard_cauchy(20_000).clip(-1e6, 1e6) * spread + offset).astype(np.float32)
    centroids = np.unique(rng.choice(values, 256))
    expected = np.abs(values.astype(np.float64)[:, None] - centroids.astype(np.float64)).argmin(axis=1)
    assert (assign_scalar(values, centroids) == expected).all()


def test_of_equal_centroids_the_first_is_used():
    centroids = np.array([1, -1, 1, -1, -1, 0], np.float32)
    assert assign_scalar(np.array([5, -5, 0.2, 0.5, -0.5], np.float32), centroids).tolist() == [0, 1, 5, 0, 1]


def test_each_row_is_assigned_by_its_own_table():
    values = np.array([[0, 1, 2], [0, 1, 2]], np.float32)
    tables = np.array([[0, 2], [2, 0]], np.float32)
    assert assign_scalar(values, tables).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_nothing_is_assigned_to_nothing():
    assert assign_scalar(np.empty((3, 0), np.float32), np.ones(4, np.float32)).shape == (3, 0)


@pytest.mark.parametrize(
    ("values", "centroids", "message"),
    [
        ([1, np.nan], [1.0], "1 of 2 values"),
        ([1.0], [np.inf, 1], "1 of 2 centroids"),
        ([1.0], [], "k from 1 to 256"),
        ([1.0], np.ones(257), "k from 1 to 256"),
        ([1.0], np.ones((3, 2)), "one row of values per table"),
    ],
)
def test_what_cannot_be_assigned_is_refused(values, centroids, message):
    with pytest.raises(ClusteringError, match=message):
        assign_scalar(np.array(values, np.float32), np.array(centroids, np.float32))

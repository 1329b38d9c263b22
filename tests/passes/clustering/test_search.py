"""The search for better tables of vectors: it never loses, and finds what Lloyd steps alone do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.passes.clustering import OrderedVectors, search_kernels
from graphpress.passes.clustering.vector_kernels import LANES, vectors_at

HOW = search_kernels.Trial(steps=30, least_gain=1e-4, most_left=2.5, relaxation=1.9)


def error_of(values, weights, centroids):
    distances = ((values.astype(np.float64)[:, None] - centroids) ** 2).sum(-1).min(1)
    return float((distances * weights).sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 300), st.integers(1, 12), st.integers(0, 2**32), st.booleans())
def test_turns_never_raise_the_error(axes, size, k, seed, weighted):
    generator = np.random.default_rng(seed)
    values = generator.standard_t(3, (size, axes)).astype(np.float32)
    weights = generator.integers(0, 3, size) if weighted else np.ones(size)
    if not weights.any():
        weights[:] = 1
    blocks = OrderedVectors.of(values, weights.astype(np.float32)).blocks
    tables = generator.standard_normal((4, k, axes))
    errors = [error_of(values, weights, table) for table in tables]
    search_kernels.spliced(blocks, tables, generator.random((10, 3)), generator.standard_normal((10, axes)), HOW)
    spliced = [error_of(values, weights, table) for table in tables]
    assert spliced[0] <= min(spliced) * (1 + 1e-12)
    assert max(spliced) <= max(errors) * (1 + 1e-12)
    assert min(spliced) <= min(errors) * (1 + 1e-12)
    swapped = search_kernels.swapped(blocks, tables[0], generator.random((10, 2)), HOW)
    assert error_of(values, weights, swapped) <= spliced[0] * (1 + 1e-12)


@pytest.mark.parametrize("axes", [2, 4])
def test_a_centroid_between_two_clumps_is_swapped_to_the_clump_that_lacks_one(axes):
    generator = np.random.default_rng(0)
    places = np.arange(6)[:, None] * np.full(axes, 100.0)
    values = (np.repeat(places, 200, axis=0) + generator.standard_normal((1200, axes))).astype(np.float32)
    blocks = OrderedVectors.of(values).blocks
    stuck = places.copy()
    stuck[1] = stuck[0] + 1.0  # two in the first clump; the third takes what was the second's
    stuck[2] = (places[1] + places[2]) / 2
    swapped = search_kernels.swapped(blocks, stuck, generator.random((200, 2)), HOW)
    assert error_of(values, 1, swapped) < 1.01 * error_of(values, 1, places) < 0.01 * error_of(values, 1, stuck)


def test_the_good_halves_of_two_tables_are_spliced():
    generator = np.random.default_rng(0)
    places = np.array([[x, 0.0] for x in range(0, 800, 100)])
    values = (np.repeat(places, 100, axis=0) + generator.standard_normal((800, 2))).astype(np.float32)
    blocks = OrderedVectors.of(values).blocks
    left, right = places.copy(), places.copy()
    left[4:], right[:4] = [[650, 0], [400, 1], [401, 0], [402, 0]], [[150, 0], [1, 0], [2, 0], [3, 0]]
    tables = np.array([left, right])
    search_kernels.spliced(
        blocks, tables, np.array([[0.0, 0.0, 0.5]]), np.array([[1.0, 0.0]]), HOW
    )  # left, right, after four
    assert error_of(values, 1, tables[0]) < 1.01 * error_of(values, 1, places)


@pytest.mark.parametrize("size", [1, LANES - 1, LANES, LANES + 1])
def test_blocks_hold_the_vectors_in_order(size):
    values = np.random.default_rng(size).standard_normal((size, 3)).astype(np.float32)
    vectors = OrderedVectors.of(values)
    assert (vectors_at(vectors.blocks, np.arange(size)) == values[vectors.order]).all()
    error, sums = vectors.sums(np.zeros((1, 3)))
    assert sums[0] == pytest.approx([*values.astype(np.float64).sum(0), size], abs=1e-9)
    assert error == pytest.approx((values.astype(np.float64) ** 2).sum())

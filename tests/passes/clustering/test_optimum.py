"""On the weights of whole models, scalar k-means is within 0.1% of the exact optimum, by an independent oracle."""

import kmeans1d
import numpy as np
import pytest

from graphpress.passes.clustering import cluster_groups
from graphpress.tools.edsr.model import load_trained
from graphpress.tools.models import resnet50

NEAR = 1 + 1e-3


def weights_of(model, group=None):
    """Every weight as rows that have a table each: one, or the output channels by `group`."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            weight = parameter.detach().numpy()
            groups = len(weight) // group if group and len(weight) % group == 0 else 1
            yield name, weight.reshape(groups, -1)


def exact_optimum(row, k):
    """The least squared error, by the oracle's centroids as a table stores them."""
    labels, centroids = kmeans1d.cluster(row.astype(np.float64), k)
    table = np.array(centroids, np.float32).astype(np.float64)
    return float(((row - table[labels]) ** 2).sum())


def assert_near_optimum(weights, k, every=1, more_than=30):
    """Compare each weight, and each or every so many of its rows."""
    compared = 0
    for name, rows in weights:
        if rows.shape[1] <= k:
            continue
        errors = cluster_groups(rows, k).sse
        for row, error in list(zip(rows, errors, strict=True))[::every]:
            assert error <= exact_optimum(row, k) * NEAR, f"{name}, {k} clusters"
            compared += 1
    assert compared > more_than


def test_on_every_weight_of_the_demo_model_at_4_bits():
    assert_near_optimum(weights_of(load_trained()), 16)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 3, 6, 8])
def test_on_every_weight_of_the_demo_model(bits):
    assert_near_optimum(weights_of(load_trained()), 1 << bits)


@pytest.mark.slow
def test_on_every_group_of_a_few_of_the_demo_model():
    assert_near_optimum(weights_of(load_trained(), 16), 64, every=2)


@pytest.mark.slow
def test_on_every_weight_of_a_resnet50_at_4_bits():
    assert_near_optimum(weights_of(resnet50()), 16)


@pytest.mark.slow
def test_on_groups_of_every_weight_of_a_resnet50_at_6_bits():
    assert_near_optimum(weights_of(resnet50(), 16), 64, every=16)


@pytest.mark.slow
def test_on_weights_of_a_resnet50_at_8_bits():
    small = ((name, rows) for name, rows in weights_of(resnet50()) if rows.size <= 150_000)  # the oracle takes 16 n k B
    assert_near_optimum(small, 256, more_than=20)

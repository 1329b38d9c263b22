"""On the weights of whole models, scalar k-means is within 0.1% of the exact optimum, by independent oracles."""

import kmeans1d
import numpy as np
import pytest

from graphpress.passes.clustering import cluster_groups
from graphpress.tools.edsr.model import load_trained
from graphpress.tools.models import resnet50
from tests.passes.clustering.exact import least_error

NEAR = 1 + 1e-3


def weights_of(model, group=None):
    """Every weight as rows that have a table each: one, or the output channels by `group`."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            weight = parameter.detach().numpy()
            groups = len(weight) // group if group and len(weight) % group == 0 else 1
            yield name, weight.reshape(groups, -1)


def assert_near_optimum(weights, k, every=1, more_than=30, near=NEAR):
    """Compare each weight, and each or every so many of its rows."""
    compared = 0
    for name, rows in weights:
        if rows.shape[1] <= k:
            continue
        errors = cluster_groups(rows, k).sse
        for row, error in list(zip(rows, errors, strict=True))[::every]:
            assert error <= least_error(row, k) * near, f"{name}, {k} clusters"
            compared += 1
    assert compared > more_than


@pytest.mark.parametrize("k", [2, 16, 64, 256])
@pytest.mark.parametrize("draw", ["standard_normal", "random", "standard_exponential"])
def test_two_oracles_agree(draw, k):
    values = getattr(np.random.default_rng(k), draw)(3000)
    labels, centroids = kmeans1d.cluster(values, k)
    assert least_error(values, k) == pytest.approx(float(((values - np.array(centroids)[labels]) ** 2).sum()), rel=1e-9)


@pytest.mark.parametrize(("bits", "near"), [(4, 1 + 1e-5), (6, NEAR), (8, NEAR)])  # 4 bits are nearer by far
def test_on_every_weight_of_the_demo_model(bits, near):
    assert_near_optimum(weights_of(load_trained()), 1 << bits, near=near)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_on_groups_of_every_weight_of_the_demo_model(bits):
    assert_near_optimum(weights_of(load_trained(), 16), 1 << bits)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_on_every_weight_of_the_demo_model_in_few_bits(bits):
    assert_near_optimum(weights_of(load_trained()), 1 << bits)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_on_every_weight_of_a_resnet50(bits):
    assert_near_optimum(weights_of(resnet50()), 1 << bits)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 6])
def test_on_groups_of_every_weight_of_a_resnet50(bits):
    assert_near_optimum(weights_of(resnet50(), 16), 1 << bits, every=8)

"""Masks by magnitude, against the formulas written out."""

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.passes.config import BlockStructured, ChannelStructured, NMStructured, PruningSpec
from graphpress.passes.config.components import PRUNING_ALGORITHMS
from graphpress.passes.weights import PruningAlgorithm, PruningError, pruning_mask

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def smallest_in_order(scores, sparsity):
    """Places of the zeros: a stable sort of all scores, written for reading."""
    zeros = round(sparsity * len(scores))
    return set(np.argsort(np.asarray(scores), kind="stable")[:zeros].tolist())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=40),
    st.floats(0, 1),
    st.sampled_from(DTYPES),
)
def test_the_smallest_elements_go_and_of_equal_ones_the_first(values, sparsity, dtype):
    weight = torch.tensor(values).to(dtype)
    mask = pruning_mask(weight, PruningSpec(target_sparsity=sparsity))
    zeros = smallest_in_order(np.abs(values), sparsity)
    assert mask.tolist() == [at not in zeros for at in range(len(values))]


@pytest.mark.parametrize("axis", [0, 1, -1, 2])
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_channels_of_least_norm_go_whole(axis, sparsity):
    weight = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1))
    mask = pruning_mask(weight, PruningSpec(target_sparsity=sparsity, pruning_scheme=ChannelStructured(axis=axis)))
    channels = weight.double().numpy()
    others = tuple(at for at in range(3) if at != axis % 3)
    zeros = smallest_in_order(np.sqrt((channels**2).sum(axis=others)), sparsity)
    expected = np.ones(weight.shape, bool)
    np.moveaxis(expected, axis, 0)[sorted(zeros)] = False
    assert np.array_equal(mask.numpy(), expected)


@pytest.mark.parametrize(
    ("weight", "spec", "message"),
    [
        (torch.zeros(0, 3), PruningSpec(), "no elements to prune"),
        (torch.tensor([1.0, float("nan")]), PruningSpec(), "1 values that are not finite"),
        (torch.ones(2, 2, dtype=torch.int8), PruningSpec(), "torch.int8; floating weights are pruned"),
        (torch.ones(2, 2), PruningSpec(pruning_scheme=ChannelStructured(axis=2)), r"layer\.weight.*accepted: -2 to 1"),
    ],
)
def test_what_cannot_be_pruned_is_named(weight, spec, message):
    with pytest.raises(PruningError, match=message):
        pruning_mask(weight, spec, name="layer.weight")


def test_an_algorithm_of_ones_own_chooses_by_key_or_by_class():
    class First(PruningAlgorithm):
        def mask(self, weight, sparsity, scheme):
            kept = torch.ones(weight.numel(), dtype=torch.bool)
            kept[: round(sparsity * weight.numel())] = False
            return kept.reshape(weight.shape)

    weight = torch.randn(2, 4)
    expected = [[False] * 4, [True] * 4]
    assert pruning_mask(weight, PruningSpec(pruning_algo=First)).tolist() == expected
    PruningAlgorithm.register("the first")(First)
    try:
        assert pruning_mask(weight, PruningSpec(pruning_algo="the first")).tolist() == expected
    finally:
        PRUNING_ALGORITHMS.unregister("the first")


def test_an_algorithm_that_gives_no_mask_is_refused():
    class Floats(PruningAlgorithm):
        def mask(self, weight, sparsity, scheme):
            return weight

    with pytest.raises(PruningError, match=r"bool tensor of shape \(2, 4\)"):
        pruning_mask(torch.ones(2, 4), PruningSpec(pruning_algo=Floats))


def test_of_every_m_elements_as_many_go_as_the_sparsity_says():
    torch.manual_seed(0)
    weight = torch.randn(6, 10, 2)
    kept = pruning_mask(weight, PruningSpec(target_sparsity=0.5, pruning_scheme=NMStructured(m=4)))
    for start in (0, 4):
        group = weight[:, start : start + 4].abs()
        assert torch.equal(kept[:, start : start + 4], group >= group.sort(dim=1).values[:, 2:3])
    assert kept[:, 8:].all()  # the two that the last group lacks are its zeros


def test_blocks_of_least_norm_go_whole():
    torch.manual_seed(0)
    weight = torch.randn(7, 3)
    scheme = BlockStructured(block_size=3)
    kept = pruning_mask(weight, PruningSpec(pruning_scheme=scheme, pruning_algo="magnitude_floor"))
    norms = torch.stack([weight[start : start + 3].norm(dim=0) for start in (0, 3, 6)])
    expected = norms >= norms.flatten().sort().values[4]  # floor(9 / 2)
    assert torch.equal(kept, expected.repeat_interleave(3, 0)[:7])


def test_the_number_of_zeros_is_rounded_down_where_asked():
    weight = torch.arange(1.0, 11.0)
    for sparsity, zeros in ((0.29, 2), (0.3, 3), (0.39, 3), (1.0, 10)):
        mask = pruning_mask(weight, PruningSpec(target_sparsity=sparsity, pruning_algo="magnitude_floor"))
        assert int((~mask).sum()) == zeros


@pytest.mark.parametrize("scheme", [BlockStructured(block_size=2, axis=1), NMStructured(m=4, axis=0)])
def test_schemes_survive_as_plain_data(scheme):
    spec = PruningSpec(pruning_scheme=scheme)
    assert PruningSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(PruningError, match=r"axis .* is none of shape"):
        pruning_mask(torch.randn(4), PruningSpec(pruning_scheme=attrs.evolve(scheme, axis=3)))

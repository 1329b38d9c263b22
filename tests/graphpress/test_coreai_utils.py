"""Compressing a Core AI program that is converted already, held in the runtime against the formulas of the passes."""

import pytest
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.backends.coreai.asset import open_asset
from graphpress.backends.errors import AssetError
from graphpress.coreai_utils import WeightCompressionError, palettize_weights, quantize_weights, sparsify_weights
from graphpress.passes.palettization import palettize
from graphpress.passes.pruning import pruning_mask
from graphpress.passes.specs import PalettizationSpec, PerGroupedChannelGranularity, PruningSpec, QuantizationSpec

EYE = torch.eye(32)  # a linear layer gives its weight, transposed, without rounding
COUNT = 32 * 64


@pytest.fixture
def program(tmp_path):
    torch.manual_seed(0)
    coreai.convert(nn.Sequential(nn.Linear(32, 64, bias=False)).eval(), tmp_path / "float.aimodel", EYE)
    return open_asset(tmp_path / "float.aimodel").program


def dense():
    torch.manual_seed(0)
    return nn.Linear(32, 64, bias=False).weight.detach()


def saved(program, folder):
    """What the asset of a program says, and the weight that the runtime computes with."""
    program.save_asset(folder / "c.aimodel")
    return coreai.read(folder / "c.aimodel"), coreai.load(folder / "c.aimodel")(EYE).T


def weight_bytes(info):
    return sum(c.stored_bytes for c in info.constants if c.used_by != ("transpose.1",))


@pytest.mark.parametrize(
    ("options", "spec", "size"),
    [
        ({}, PalettizationSpec(), COUNT // 2 + 64),
        (
            {"n_bits": 3, "granularity": "per_grouped_channel", "group_size": 16},
            PalettizationSpec(n_bits=3, granularity=PerGroupedChannelGranularity(group_size=16)),
            COUNT * 3 // 8 + 4 * 32,
        ),
        (
            {"lut_dtype": "int8", "enable_per_channel_scale": True},
            PalettizationSpec(lut_qspec=QuantizationSpec(dtype="int8"), enable_per_channel_scale=True),
            COUNT // 2 + 16 + 4 * 64,
        ),
    ],
)
def test_tables_are_those_that_the_pass_finds(program, tmp_path, options, spec, size):
    info, weight = saved(palettize_weights(program, weight_num_threshold=100, **options), tmp_path)
    assert torch.equal(weight, palettize(dense(), spec).dense())
    assert weight_bytes(info) == size


def test_zeros_are_those_of_least_magnitude(program, tmp_path):
    info, weight = saved(sparsify_weights(program, 0.75, weight_num_threshold=100), tmp_path)
    assert torch.equal(weight, dense() * pruning_mask(dense(), PruningSpec(target_sparsity=0.75)))
    assert weight_bytes(info) == COUNT // 8 + COUNT


@pytest.mark.parametrize(
    ("options", "steps", "size"),
    [
        ({}, 127, COUNT + 4 * 64),
        ({"dtype": "int4", "granularity": "per_block", "block_size": 8}, 7, COUNT // 2 + 4 * 64 * 4),
    ],
)
def test_codes_are_within_half_a_step(program, tmp_path, options, steps, size):
    info, weight = saved(quantize_weights(program, weight_num_threshold=100, **options), tmp_path)
    assert ((weight - dense()).abs() <= 0.51 * dense().abs().amax(1, keepdim=True) / steps).all()
    assert (weight != dense()).any()
    assert weight_bytes(info) == size


def test_the_program_itself_changes_only_where_asked(program, tmp_path):
    quantize_weights(program, weight_num_threshold=100)
    before, weight = saved(program, tmp_path)
    assert torch.equal(weight, dense())
    assert palettize_weights(program, weight_num_threshold=100, in_place=True) is program
    assert saved(program, tmp_path)[0].weight_bytes < before.weight_bytes


def test_small_weights_and_those_that_blocks_do_not_divide_stay(program, tmp_path):
    for options in ({"weight_num_threshold": COUNT}, {"granularity": "per_block", "block_size": 7}):
        assert torch.equal(saved(quantize_weights(program, **options), tmp_path)[1], dense())


def test_what_cannot_be_is_named(program):
    with pytest.raises(WeightCompressionError, match=r"qscheme is 'sym'.*accepted: symmetric, asymmetric"):
        quantize_weights(program, qscheme="sym")
    with pytest.raises(AssetError, match="a Linear is no Core AI program"):
        sparsify_weights(nn.Linear(2, 2))

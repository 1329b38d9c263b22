"""Compressing a Core ML program that is converted already, held against the program before and plain formulas."""

import pytest
import torch
from torch import nn

from graphpress.backends import coreml
from graphpress.backends.errors import AssetError
from graphpress.coreml_utils import (
    CompressionGranularity,
    DType,
    WeightCompressionError,
    palettize_weights,
    quantize_weights,
    sparsify_weights,
)
from graphpress.passes.palettization import palettize
from graphpress.passes.pruning import pruning_mask
from graphpress.passes.specs import PalettizationSpec, PruningSpec

EYE = torch.eye(32)  # a linear layer gives its weight, transposed, without rounding
COUNT = 32 * 64


def layer():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64)).eval()


def without_bias(info):
    return sum(c.stored_bytes for c in info.constants if c.used_by != ("linear.bias",))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("packages") / "float.mlpackage"
    model = layer()
    model[0].bias.data.zero_()
    coreml.convert(model, path, EYE, target="iOS15")
    return path


def compressed(function, package, folder, **options):
    """What the package is after that, and its weight."""
    function(package, weight_num_threshold=100, **options).save(str(folder / "c.mlpackage"))
    _, (found,) = coreml.evaluate(folder / "c.mlpackage", [EYE])
    return coreml.read(folder / "c.mlpackage"), found.T


def test_tables_are_those_that_the_pass_finds(package, tmp_path):
    info, weight = compressed(palettize_weights, package, tmp_path)
    assert torch.equal(weight, palettize(layer()[0].weight.detach(), PalettizationSpec()).dense())
    assert info.operations["constexpr_lut_to_dense"] == 1
    assert without_bias(info) == COUNT // 2 + 64


def test_zeros_are_those_of_least_magnitude(package, tmp_path):
    info, weight = compressed(sparsify_weights, package, tmp_path, target_sparsity=0.75)
    dense = layer()[0].weight.detach()
    assert torch.equal(weight, dense * pruning_mask(dense, PruningSpec(target_sparsity=0.75)))
    assert without_bias(info) == COUNT // 8 + COUNT


def test_codes_are_within_half_a_step(package, tmp_path):
    info, weight = compressed(quantize_weights, package, tmp_path)
    dense = layer()[0].weight.detach()
    step = dense.abs().amax(1, keepdim=True) / 127
    assert ((weight - dense).abs() <= 0.51 * step).all()
    assert (weight != dense).any()
    assert info.operations["constexpr_affine_dequantize"] == 1
    # Codes, a float scale and an int8 zero point for each channel.
    assert without_bias(info) == COUNT + 5 * 64


@pytest.mark.parametrize(
    ("function", "options", "version"),
    [
        (quantize_weights, {}, 7),
        (quantize_weights, {"dtype": DType.INT4}, 9),
        (quantize_weights, {"granularity": CompressionGranularity.PER_BLOCK, "block_size": 8}, 9),
        (palettize_weights, {"n_bits": 6}, 7),
        (palettize_weights, {"n_bits": 3}, 9),
        (palettize_weights, {"granularity": "per_grouped_channel", "group_size": 16}, 9),
        (palettize_weights, {"lut_dtype": "int8", "enable_per_channel_scale": True}, 9),
        (sparsify_weights, {"channel_axis": 0}, 7),
    ],
)
def test_the_model_is_for_the_oldest_target_that_holds_it(package, tmp_path, function, options, version):
    before = coreml.read(package)
    info, weight = compressed(function, package, tmp_path, **options)
    assert info.target == version
    assert info.weight_bytes < before.weight_bytes
    assert torch.isfinite(weight).all()
    assert coreml.read(package) == before


def test_small_weights_and_those_that_blocks_do_not_divide_stay(package, tmp_path):
    for options in ({"weight_num_threshold": COUNT}, {"granularity": "per_block", "block_size": 7}):
        quantize_weights(package, **options).save(str(tmp_path / "same.mlpackage"))
        assert coreml.read(tmp_path / "same.mlpackage").weight_bytes == coreml.read(package).weight_bytes


def test_what_cannot_be_is_named(package, tmp_path):
    with pytest.raises(WeightCompressionError, match=r"dtype is 'int5'.*int4"):
        quantize_weights(package, dtype="int5")
    with pytest.raises(WeightCompressionError, match=r"granularity 'per_grouped_channel' is one of tables"):
        quantize_weights(package, granularity="per_grouped_channel")
    with pytest.raises(WeightCompressionError, match=r"granularity 'per_block' is one of scales"):
        palettize_weights(package, granularity="per_block")
    with pytest.raises(WeightCompressionError, match=r"lut_dtype is 'int4'"):
        palettize_weights(package, lut_dtype="int4")
    with pytest.raises(WeightCompressionError, match="weight_num_threshold is -1"):
        sparsify_weights(package, weight_num_threshold=-1)
    with pytest.raises(AssetError, match="no Core ML package"):
        quantize_weights(tmp_path / "nothing.mlpackage")
    with pytest.raises(AssetError, match="a Linear is no Core ML program"):
        quantize_weights(nn.Linear(2, 2))

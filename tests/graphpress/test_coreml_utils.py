"""Compressing a Core ML program that is converted already, held against the passes over its graph, and formulas."""

import pytest
import torch
from torch import nn

from graphpress.backends import coreml
from graphpress.backends.errors import AssetError, LoweringError
from graphpress.coreml_utils import (
    CompressionGranularity,
    DType,
    WeightCompressionError,
    palettize_weights,
    quantize_weights,
    sparsify_weights,
)
from graphpress.passes.config import PalettizationSpec
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.weights import palettize
from tests.graphpress.test_coreai_utils import DEFAULTS, stored
from tests.graphpress.test_coreai_utils import pipelines as plans

EYE = torch.eye(32)  # a linear layer gives its weight, transposed, without rounding
COUNT = 32 * 64
PLANS = {
    quantize_weights: plans.quantization,
    palettize_weights: plans.palettization,
    sparsify_weights: plans.sparsification,
}
OPTIONS = {plan.__name__: defaults for plan, defaults in zip(PLANS.values(), DEFAULTS.values(), strict=True)}


def layer(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64)).eval().to(dtype)
    model[0].bias.data.zero_()
    return model


def dense():
    return layer()[0].weight.detach()


def without_bias(info):
    return sum(c.stored_bytes for c in info.constants if c.used_by != ("linear.bias",))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("packages") / "float.mlpackage"
    coreml.convert(layer(), path, EYE, target="iOS15")
    return path


def compressed(function, package, folder, **options):
    """What the package is after that, and its weight."""
    function(package, weight_num_threshold=100, **options).save(str(folder / "c.mlpackage"))
    _, (found,) = coreml.evaluate(folder / "c.mlpackage", [EYE])
    return coreml.read(folder / "c.mlpackage"), found.T


CASES = [
    (quantize_weights, {}, 7, COUNT + 5 * 64),  # a float scale and an int8 zero point for each channel
    (quantize_weights, {"dtype": "uint8", "qscheme": "asymmetric", "granularity": "per_tensor"}, 7, COUNT),
    (quantize_weights, {"dtype": DType.INT4}, 9, COUNT // 2 + 4 * 64),
    (
        quantize_weights,
        {"dtype": "uint4", "granularity": CompressionGranularity.PER_BLOCK, "block_size": 8},
        9,
        COUNT // 2 + 4 * 64 * 4 + 64 * 4 // 2,
    ),
    (palettize_weights, {"n_bits": 6}, 7, COUNT * 6 // 8 + 4 * 64),
    (palettize_weights, {"n_bits": 3}, 9, COUNT * 3 // 8),
    (palettize_weights, {"granularity": "per_grouped_channel", "group_size": 16}, 9, COUNT // 2 + 4 * 4 * 16),
    (palettize_weights, {"n_bits": 2, "granularity": "per_channel"}, 9, COUNT // 4 + 4 * 4 * 64),
    (palettize_weights, {"cluster_dim": 2}, 9, COUNT // 4 + 4 * 32),
    (palettize_weights, {"lut_dtype": "int8", "enable_per_channel_scale": True}, 9, None),
    (sparsify_weights, {"target_sparsity": 0.75}, 7, COUNT // 8 + COUNT),
    (sparsify_weights, {"block_size": 4}, 7, COUNT // 8 + COUNT * 2),
    (sparsify_weights, {"target_sparsity": None, "n_m_ratio": (3, 4)}, 7, COUNT // 8 + COUNT),
    (sparsify_weights, {"quantize_dtype": "int8"}, 9, COUNT // 8 + COUNT // 2 + 4 * 64),
    (sparsify_weights, {"palettize_nbits": 4}, 9, COUNT // 8 + COUNT // 4 + 4 * 16),
]
IDS = [f"{function.__name__}: {options}" for function, options, _, _ in CASES]


@pytest.mark.parametrize(("function", "options", "version", "size"), CASES, ids=IDS)
def test_the_program_stores_the_bits_that_the_passes_over_its_graph_give(
    package, tmp_path, function, options, version, size
):
    plan = PLANS[function]
    text = str(plan(**OPTIONS[plan.__name__] | options, weight_num_threshold=100))
    graph = Runner().run(coreml.from_package(package), Pipeline.parse(text)).graph
    target = {7: "iOS16", 9: "iOS18"}[version]
    coreml.convert(graph, tmp_path / "graph.mlpackage", target=target)
    before = coreml.read(package)
    info, weight = compressed(function, package, tmp_path, **options)
    assert stored(coreml.from_package(tmp_path / "c.mlpackage")) == stored(
        coreml.from_package(tmp_path / "graph.mlpackage")
    )
    assert info.operations == coreml.read(tmp_path / "graph.mlpackage").operations
    assert info.target == version
    assert size is None or without_bias(info) == size  # what has few elements is in the program
    assert 0 < (weight - dense()).abs().max() < dense().abs().max() * 1.2
    assert coreml.read(package) == before


def test_tables_and_zeros_are_those_of_plain_formulas(package, tmp_path):
    _, weight = compressed(palettize_weights, package, tmp_path)
    assert torch.equal(weight, palettize(dense(), PalettizationSpec()).dense())
    _, weight = compressed(sparsify_weights, package, tmp_path, target_sparsity=0.3)
    threshold = dense().abs().flatten().sort().values[int(0.3 * COUNT)]
    assert torch.equal(weight, dense() * (dense().abs() >= threshold))


def test_codes_are_within_half_a_step(package, tmp_path):
    _, weight = compressed(quantize_weights, package, tmp_path)
    step = dense().abs().amax(1, keepdim=True) / 127
    assert ((weight - dense()).abs() <= 0.51 * step).all()


def test_a_weight_of_float16_has_scales_of_float16(tmp_path):
    coreml.convert(layer(torch.float16), tmp_path / "float.mlpackage", EYE.half(), target="iOS18")
    quantize_weights(tmp_path / "float.mlpackage", weight_num_threshold=100).save(str(tmp_path / "c.mlpackage"))
    info = coreml.read(tmp_path / "c.mlpackage")
    assert "cast" not in info.operations
    assert without_bias(info) == COUNT + 2 * 64


def test_free_extents_stay_free(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    free = torch.export.Dim("height", min=8, max=64)
    exported = torch.export.export(model, (torch.randn(1, 3, 16, 16),), dynamic_shapes=({2: free},))
    coreml.convert(exported, tmp_path / "float.mlpackage")
    palettized = palettize_weights(tmp_path / "float.mlpackage", n_bits=2)
    palettized.save(str(tmp_path / "c.mlpackage"))
    assert coreml.read(tmp_path / "c.mlpackage").operations["constexpr_lut_to_dense"] == 2
    shape = palettized.get_spec().description.input[0].type.multiArrayType.shapeRange.sizeRanges
    assert (shape[2].lowerBound, shape[2].upperBound) == (8, 64)


def test_small_weights_and_those_that_blocks_do_not_divide_stay(package, tmp_path):
    quantize_weights(package, weight_num_threshold=COUNT).save(str(tmp_path / "same.mlpackage"))
    assert coreml.read(tmp_path / "same.mlpackage").weight_bytes == coreml.read(package).weight_bytes
    with pytest.warns(UserWarning, match=r"(?s)1 weight skipped.*block_size=7"):
        quantize_weights(package, granularity="per_block", block_size=7).save(str(tmp_path / "same.mlpackage"))
    assert coreml.read(tmp_path / "same.mlpackage").weight_bytes == coreml.read(package).weight_bytes


def test_what_cannot_be_is_named(package, tmp_path):
    with pytest.raises(WeightCompressionError, match=r"dtype is 'int5'.*int4"):
        quantize_weights(package, dtype="int5")
    with pytest.raises(LoweringError, match=r"weights of float8_e4m3fn, where int8, uint8, int4, uint4 are possible"):
        quantize_weights(package, dtype="fp8_e4m3fn")
    with pytest.raises(AssetError, match="is not a Core ML package"):
        quantize_weights(tmp_path / "nothing.mlpackage")
    with pytest.raises(AssetError, match="a Linear is not a Core ML program"):
        quantize_weights(nn.Linear(2, 2))

"""Compressing a Core AI program that is converted already, held in the runtime against the passes over its graph."""

import pytest
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.backends.coreai.asset import open_asset
from graphpress.backends.errors import AssetError
from graphpress.coreai_utils import (
    CompressionGranularity,
    DType,
    WeightCompressionError,
    palettize_weights,
    pipelines,
    quantize_weights,
    sparsify_weights,
)
from graphpress.ir.errors import GraphpressError
from graphpress.passes.config import PalettizationSpec
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.weights import palettize

EYE = torch.eye(32)  # a linear layer gives its weight, transposed, without rounding
COUNT = 32 * 64


def layer(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64, bias=False)).eval().to(dtype)


def dense():
    return layer()[0].weight.detach()


def converted(model, folder, *inputs):
    coreai.convert(model, folder / "float.aimodel", inputs)
    return open_asset(folder / "float.aimodel").program


@pytest.fixture
def program(tmp_path):
    return converted(layer(), tmp_path, EYE)


def saved(program, folder):
    """What the asset of a program says, and the weight that the runtime computes with."""
    program.save_asset(folder / "c.aimodel")
    return coreai.read(folder / "c.aimodel"), coreai.load(folder / "c.aimodel")(EYE).T


def weight_bytes(info):
    return sum(c.stored_bytes for c in info.constants if c.used_by != ("transpose.1",))


def stored(graph):
    """The bits of the constants of a graph, with their types."""
    constants = graph.constants.values()
    return sorted((str(c.type), bytes(c.tensor.reshape(-1).view(torch.uint8).numpy())) for c in constants)


QUANTIZED = {
    "int8": {},
    "uint8 asymmetric": {"dtype": "uint8", "qscheme": "asymmetric", "granularity": "per_tensor"},
    "int4 blocks": {"dtype": "int4", "granularity": "per_block", "block_size": 8},
    "int2": {"dtype": DType.INT2},
    "uint2": {"dtype": DType.UINT2},
    "float8": {"dtype": "fp8_e4m3fn"},
    "float8 e5m2, powers of two": {"dtype": "fp8_e5m2", "scale_dtype": "fp8_e8m0fnu"},
    "float4": {"dtype": "fp4_e2m1fn", "granularity": "per_block"},
}
PALETTIZED = {
    "4 bits": {},
    "3 bits in groups": {"n_bits": 3, "granularity": "per_grouped_channel", "group_size": 16},
    "2 bits per channel": {"n_bits": 2, "granularity": CompressionGranularity.PER_CHANNEL},
    "vectors": {"cluster_dim": 2},
    "int8 table and scales": {"lut_dtype": "int8", "enable_per_channel_scale": True},
    "float8 table": {"lut_dtype": "fp8_e4m3fn"},
}
SPARSE = {
    "half": {},
    "int8": {"quantize_dtype": "int8"},
    "float8": {"quantize_dtype": "fp8_e4m3fn"},
    "tables": {"palettize_nbits": 4},
    "2:4": {"target_sparsity": None, "n_m_ratio": (2, 4)},
    "blocks": {"block_size": 4},
}
CASES = [
    pytest.param(function, plan, options, id=f"{function.__name__}: {name}")
    for function, plan, table in (
        (quantize_weights, pipelines.quantization, QUANTIZED),
        (palettize_weights, pipelines.palettization, PALETTIZED),
        (sparsify_weights, pipelines.sparsification, SPARSE),
    )
    for name, options in table.items()
]
DEFAULTS = {
    quantize_weights: {"dtype": "int8", "qscheme": "symmetric", "granularity": "per_channel", "block_size": 32},
    palettize_weights: {
        "lut_dtype": None,
        "n_bits": 4,
        "granularity": "per_tensor",
        "group_size": 32,
        "cluster_dim": 1,
        "enable_per_channel_scale": False,
    },
    sparsify_weights: {
        "target_sparsity": 0.5,
        "block_size": None,
        "n_m_ratio": None,
        "quantize_dtype": None,
        "palettize_nbits": None,
    },
}


@pytest.mark.parametrize(("function", "plan", "options"), CASES)
def test_the_program_stores_the_bits_that_the_passes_over_its_graph_give(program, tmp_path, function, plan, options):
    text = str(plan(**DEFAULTS[function] | options, weight_num_threshold=100))
    graph = Runner().run(coreai.from_program(program), Pipeline.parse(text)).graph
    coreai.convert(graph, tmp_path / "graph.aimodel")
    compressed = function(program, weight_num_threshold=100, **options)
    info, weight = saved(compressed, tmp_path)
    assert stored(coreai.from_program(compressed)) == stored(coreai.from_asset(tmp_path / "graph.aimodel"))
    assert info.operations == coreai.read(tmp_path / "graph.aimodel").operations
    assert torch.equal(coreai.load(tmp_path / "graph.aimodel")(EYE).T, weight)
    assert 0 < (weight - dense()).abs().max() < dense().abs().max() * 1.2


@pytest.mark.parametrize(
    ("function", "options", "size"),
    [
        (quantize_weights, {}, COUNT + 4 * 64),
        (quantize_weights, QUANTIZED["int4 blocks"], COUNT // 2 + 4 * 64 * 4),
        (quantize_weights, QUANTIZED["float4"], COUNT // 2),
        (palettize_weights, {}, COUNT // 2 + 4 * 16),
        (palettize_weights, PALETTIZED["3 bits in groups"], COUNT * 3 // 8 + 4 * 32),
        (palettize_weights, PALETTIZED["int8 table and scales"], COUNT // 2 + 16 + 4 * 64),
        (sparsify_weights, {"target_sparsity": 0.75}, COUNT // 8 + COUNT),
        (sparsify_weights, SPARSE["int8"], COUNT // 8 + COUNT // 2 + 4 * 64),
        (sparsify_weights, SPARSE["tables"], COUNT // 8 + COUNT // 4 + 4 * 16),
    ],
)
def test_it_takes_the_bytes_that_its_bits_say(program, tmp_path, function, options, size):
    assert weight_bytes(saved(function(program, weight_num_threshold=100, **options), tmp_path)[0]) == size


def test_tables_and_zeros_are_those_of_plain_formulas(program, tmp_path):
    _, weight = saved(palettize_weights(program, weight_num_threshold=100), tmp_path)
    assert torch.equal(weight, palettize(dense(), PalettizationSpec()).dense())
    _, weight = saved(sparsify_weights(program, 0.3, weight_num_threshold=100), tmp_path)
    threshold = dense().abs().flatten().sort().values[int(0.3 * COUNT)]
    assert torch.equal(weight, dense() * (dense().abs() >= threshold))


def test_a_weight_of_float16_has_scales_of_float16(tmp_path):
    program = converted(layer(torch.float16), tmp_path, EYE.half())
    quantize_weights(program, weight_num_threshold=100).save_asset(tmp_path / "c.aimodel")
    info = coreai.read(tmp_path / "c.aimodel")
    assert "cast" not in info.operations
    assert weight_bytes(info) == COUNT + 2 * 64
    weight = coreai.load(tmp_path / "c.aimodel")(EYE.half()).T.float()
    assert ((weight - dense()).abs() <= 0.6 * dense().abs().amax(1, keepdim=True) / 127).all()


def test_every_layer_is_compressed_and_what_surrounds_it_stays(tmp_path):
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.embedding = nn.Conv1d(32, 8, 3), nn.Embedding(40, 32)
            self.transposed = nn.ConvTranspose2d(8, 6, 2)
            self.right, self.left = nn.Parameter(torch.randn(32, 24)), nn.Parameter(torch.randn(7, 24))

        def forward(self, i, x):
            z = self.embedding(i)
            product = self.left @ (z @ self.right).transpose(1, 2)
            return product, self.conv(z.transpose(1, 2)), self.transposed(x)

    torch.manual_seed(0)
    model = Layers().eval()
    inputs = torch.tensor([[1, 2, 3, 4, 5]]), torch.randn(1, 8, 6, 6)
    program = quantize_weights(converted(model, tmp_path, *inputs), weight_num_threshold=100)
    program.save_asset(tmp_path / "c.aimodel")
    info = coreai.read(tmp_path / "c.aimodel")
    assert info.operations["blockwise_shift_scale"] == 5
    scales = {c.shape for c in info.constants if c.used_by == ("blockwise_shift_scale.scale",)}
    # Output channels: of the right factor of a product, its columns.
    assert scales == {(8, 1, 1, 1), (40, 1), (1, 6, 1, 1), (1, 24), (7, 1)}
    for found, expected in zip(coreai.load(tmp_path / "c.aimodel")(*inputs), model(*inputs), strict=True):
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_free_extents_stay_free(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    free = torch.export.Dim("height", min=8, max=64)
    exported = torch.export.export(model, (torch.randn(1, 3, 16, 16),), dynamic_shapes=({2: free},))
    coreai.convert(exported, tmp_path / "float.aimodel")
    program = palettize_weights(open_asset(tmp_path / "float.aimodel").program, n_bits=2)
    program.save_asset(tmp_path / "c.aimodel")
    info = coreai.read(tmp_path / "c.aimodel")
    assert info.function().inputs[0].shape == (1, 3, None, 16)
    assert info.operations["lut_to_dense"] == 2
    assert coreai.load(tmp_path / "c.aimodel")(torch.randn(1, 3, 23, 16)).shape == (1, 8, 17, 10)


def test_the_program_itself_changes_only_where_asked(program, tmp_path):
    quantize_weights(program, weight_num_threshold=100)
    before, weight = saved(program, tmp_path)
    assert torch.equal(weight, dense())
    assert palettize_weights(program, weight_num_threshold=100, in_place=True) is program
    assert saved(program, tmp_path)[0].weight_bytes < before.weight_bytes


def test_small_weights_and_those_that_blocks_do_not_divide_stay(program, tmp_path):
    assert torch.equal(saved(quantize_weights(program, weight_num_threshold=COUNT), tmp_path)[1], dense())
    with pytest.warns(UserWarning, match=r"(?s)1 weight skipped.*block_size=7"):
        same = quantize_weights(program, granularity="per_block", block_size=7)
    assert torch.equal(saved(same, tmp_path)[1], dense())


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (quantize_weights, {"qscheme": "sym"}, r"qscheme is 'sym'.*accepted: symmetric, asymmetric"),
        (quantize_weights, {"dtype": "fp8_e8m0fnu"}, r"dtype is 'fp8_e8m0fnu'.*accepted: int2"),
        (quantize_weights, {"dtype": "int8", "scale_dtype": "fp8_e8m0fnu"}, r"for float8 and float4 only"),
        (quantize_weights, {"dtype": "fp8_e5m2", "qscheme": "asymmetric"}, r"'asymmetric' is for integers"),
        (quantize_weights, {"granularity": "per_grouped_channel"}, r"granularity is 'per_grouped_channel'.*per_block"),
        (palettize_weights, {"granularity": "per_block"}, r"granularity is 'per_block'.*per_grouped_channel"),
        (palettize_weights, {"lut_dtype": "int4"}, r"lut_dtype is 'int4'.*accepted: None, int8"),
        (palettize_weights, {"n_bits": 5}, r"5"),
        (sparsify_weights, {"n_m_ratio": (2, 4)}, r"accepted: one of them, the other None"),
        (sparsify_weights, {"target_sparsity": None}, r"accepted: one of them, the other None"),
        (sparsify_weights, {"target_sparsity": None, "n_m_ratio": (5, 4)}, r"n_m_ratio is \(5, 4\)"),
        (sparsify_weights, {"block_size": 1}, r"block_size is 1"),
        (sparsify_weights, {"quantize_dtype": "int4"}, r"quantize_dtype is 'int4'"),
        (sparsify_weights, {"palettize_nbits": 5}, r"palettize_nbits is 5"),
        (sparsify_weights, {"quantize_dtype": "int8", "palettize_nbits": 4}, r"accepted: one of them"),
        (sparsify_weights, {"weight_num_threshold": -1}, r"weight_num_threshold is -1"),
    ],
)
def test_what_cannot_be_is_named(program, function, options, message):
    with pytest.raises(GraphpressError, match=message) as caught:
        function(program, **options)
    assert isinstance(caught.value, WeightCompressionError | ValueError)


def test_what_is_no_program_is_named():
    with pytest.raises(AssetError, match="a Linear is not a Core AI program"):
        sparsify_weights(nn.Linear(2, 2))

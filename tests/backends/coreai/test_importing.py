"""Saved assets as graphs: they compute what the runtime computes, and compressed constants stay compressed."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphpress import ExportBackend
from graphpress.backends import coreai
from graphpress.backends.coreai.arithmetic import RuntimeArithmetic
from graphpress.backends.errors import AssetError
from graphpress.ir import from_module, parse_graph, run
from graphpress.ir.graph import Graph
from tests.backends.features import ACTIVATIONS, IMAGE, WEIGHTS, compressed
from tests.backends.test_every_feature import weights_of

pytest.importorskip("coreai_torch")

TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def elementwise(x):
    small = x.clamp(-1, 1) / (x.abs() + 1) + F.leaky_relu(x) * F.elu(x) - F.hardswish(x)
    wave = torch.sin(x) + torch.cos(x) + torch.tanh(x) + torch.erf(x) + x.floor() + x.round() + x.sign()
    signs = torch.where((x > 0) & ~(x < -1), x, -x).pow(2)
    return small, wave, signs, F.gelu(x), F.gelu(x, approximate="tanh"), F.softplus(x), torch.rsqrt(x.abs() + 1)


def reductions(x):
    ordered = x.topk(2, 1)[0], x.cumsum(1)
    return x.mean((1, 2)), x.sum(1), x.amax(-1), x.amin(0), x.argmax(2), F.log_softmax(x, -1), F.normalize(x), *ordered


def rearranged(x):
    first, second = x.split([1, 3], 1)
    parts = torch.cat([second, first], 1), torch.stack([x, x]), x[:, 1:3, ::2], x[:, 1], x.permute(0, 2, 3, 1)
    whole = x.flatten(1), x[:, :1].expand(2, 4, 8, 8), x.flip(1), x.repeat(1, 2, 1, 1), x.roll(1, 1), F.glu(x, 1)
    edges = F.pad(x, (1, 2, 0, 1), mode="reflect"), F.pad(x, (1, 1, 1, 1), mode="replicate"), F.pad(x, (1, 2))
    return *parts, *whole, *edges, F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), x.half() + 1


def picked(x):
    places = torch.zeros(2, 2, 8, 8, dtype=torch.long)
    return x.gather(1, places), x[:, torch.tensor([0, 2])], x.tril()


def resized(x):
    bilinear = F.interpolate(x, size=(13, 5), mode="bilinear")
    return F.interpolate(x, scale_factor=2), bilinear, F.interpolate(x, size=12, mode="bilinear", align_corners=True)


def pooled(x):
    means = F.avg_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, 2)
    return *means, F.max_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, 1)


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(8)])

    def forward(self, x):
        return [norm(x) for norm in self.norms]


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.dilated = nn.Conv2d(8, 4, 2, dilation=2)
        self.transposed = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.narrow = nn.Conv1d(4, 2, 3, padding=1)
        self.deep = nn.Conv3d(1, 2, 2)

    def forward(self, x):
        image = self.transposed(self.dilated(self.grouped(x)))
        return image, self.narrow(x.flatten(2)), self.deep(x[:, None])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.linear = nn.Linear(8, 8)

    def forward(self, places, x):
        keys = self.linear(self.embedding(places))
        causal = F.scaled_dot_product_attention(x, keys, x, is_causal=True)
        return causal, F.scaled_dot_product_attention(x, keys, x), torch.einsum("bij,bkj->bik", x, keys)


MODELS = {
    "elementwise ops": (Lambda(elementwise), (TOKENS,)),
    "reductions": (Lambda(reductions), (TOKENS,)),
    "ops that rearrange": (Lambda(rearranged), (IMAGE,)),
    "ops that pick": (Lambda(picked), (IMAGE,)),
    "resizing": (Lambda(resized), (IMAGE,)),
    "pools": (Lambda(pooled), (IMAGE,)),
    "norms": (Norms(), (IMAGE,)),
    "convolutions": (Layers(), (IMAGE,)),
    "attention": (Attention(), (torch.tensor([[1, 2, 3, 0, 9], [4, 4, 5, 6, 7]]), TOKENS)),
    "an LSTM": (nn.LSTM(8, 4), (TOKENS,)),
}


def converted(model: nn.Module, inputs: tuple, tmp_path) -> Graph:
    """The model, saved and read back; it computes what the runtime does."""
    path = tmp_path / "m.aimodel"
    coreai.convert(model.eval(), path, inputs)
    graph = coreai.from_asset(path)
    given = [value.int() if value.dtype == torch.int64 else value for value in inputs]
    expected = coreai.load(path)(*given)
    with RuntimeArithmetic():
        found = run(graph, given)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(found) == len(expected)
    for ours, runtimes in zip(found, expected, strict=True):
        assert ours.dtype == runtimes.dtype
        torch.testing.assert_close(ours, runtimes, rtol=1e-6, atol=1e-6 * float(runtimes.abs().max()))
    return graph


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_of_an_asset_computes_what_the_runtime_does(name, tmp_path):
    torch.manual_seed(0)
    graph = converted(*MODELS[name], tmp_path)
    assert not [node for node in graph.nodes if node.op.dialect == "aimodel"]
    assert str(parse_graph(str(graph))) == str(graph)


def stored(weight: str, activation: str | None, tmp_path) -> None:
    """The asset has the codes of the model: the layers that stay whole have their weights bit for bit."""
    plain = weight == "float" and activation is None
    model = compressed(weight, activation, ExportBackend.CoreAI, norm=not plain)  # the converter would fold it
    graph = converted(model, (IMAGE,), tmp_path)
    meant, found = weights_of(from_module(model, (IMAGE,))), weights_of(graph)
    assert len(found) == 3  # the linear layers are products with a transposed weight
    assert all(torch.equal(a, b) for a, b in zip(found, meant, strict=False))
    compressing = [node.op.short_name for node in graph.nodes if node.op.dialect == "quant"]
    assert len(compressing) >= (0 if weight == "float" else 5) + (0 if activation is None else 10)


FEW = [
    "int4 per channel",
    "int8 with a minimum value",
    "float4 e2m1 per block",
    "tables of 3 bits",
    "float8 e4m3 tables",
]


@pytest.mark.parametrize("weight", FEW)
def test_compressed_constants_are_read_as_they_are_stored(weight, tmp_path):
    stored(weight, None, tmp_path)


@pytest.mark.parametrize("activation", ["int8", "int4"])
def test_quantized_activations_are_read_beside_compressed_weights(activation, tmp_path):
    stored("int4 per channel", activation, tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_everything_that_is_stored_is_read(weight, activation, tmp_path):
    stored(weight, activation, tmp_path)


def test_states_become_inputs_and_outputs(tmp_path):
    class Count(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 2

    coreai.convert(Count(), tmp_path / "m.aimodel", (torch.ones(3),))
    graph = coreai.from_asset(tmp_path / "m.aimodel")
    assert [each.name for each in graph.inputs] == ["x", "b_total"]
    doubled, total = run(graph, [torch.ones(3), torch.full((3,), 4.0)])
    assert torch.equal(total, torch.full((3,), 5.0))
    assert torch.equal(doubled, 2 * total)


def test_free_extents_are_as_asked_for(tmp_path):
    batch = torch.export.Dim("batch", max=8)
    coreai.convert(nn.Linear(4, 2).eval(), tmp_path / "m.aimodel", (torch.randn(3, 4),), {"input": {0: batch}})
    assert coreai.from_asset(tmp_path / "m.aimodel").inputs[0].value.tensor_type.shape == (1, 4)
    graph = coreai.from_asset(tmp_path / "m.aimodel", shapes={"input": (5, 4)})
    x = torch.randn(5, 4)
    torch.testing.assert_close(run(graph, [x])[0], coreai.load(tmp_path / "m.aimodel")(x))


def test_a_missing_function_and_damage_are_errors_of_ours(tmp_path):
    path = tmp_path / "m.aimodel"
    coreai.convert(nn.ReLU(), path, (torch.ones(2),))
    with pytest.raises(AssetError, match=r"no function 'other', only \['main'\]"):
        coreai.from_asset(path, "other")
    program = (path / "main.mlirb").read_bytes()
    (path / "main.mlirb").write_bytes(program[: len(program) // 2])
    with pytest.raises(AssetError, match="is damaged"):
        coreai.from_asset(path)
    (path / "main.mlirb").write_bytes(b"nothing")
    (path / "main.hash").write_bytes(hashlib.sha256(b"nothing").digest())
    with pytest.raises(AssetError, match="no MLIR bytecode"):
        coreai.from_asset(path)

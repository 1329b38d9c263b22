"""Converting to packages: what is stored, what is refused, and what happens to files."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphpress import ExportBackend
from graphpress.backends import coreml
from graphpress.backends.coreml import TargetError
from graphpress.backends.errors import AssetError, ConversionError, LoweringError
from graphpress.ir import run
from graphpress.ir.dtypes import DType
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import Quantizer, QuantizerConfig
from tests.backends.every_op import Lambda
from tests.backends.features import IMAGE, compressed, network
from tests.backends.test_every_feature import assert_holds

pytest.importorskip("coremltools")


@pytest.mark.parametrize(
    ("weight", "activation", "target"),
    [
        ("float", None, "iOS16"),
        ("int8 per channel", None, "iOS18"),
        ("int4 per block", None, "iOS18"),
        ("tables of 3 bits", None, "iOS18"),
        ("tables of vectors", None, "iOS18"),
        ("int8 tables with a scale per channel", None, "iOS18"),
        ("int8 tables with a scale per channel", None, "iOS26"),
        ("int8 per channel", "int8", "iOS18"),
        ("int4 per channel", "int8", "iOS18"),
    ],
)
def test_packages_hold_what_the_model_computes(weight, activation, target, tmp_path):
    model = compressed(weight, activation, ExportBackend.CoreAI)
    info = coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target=target)
    assert activation is None or info.operations["quantize"] >= 5
    assert_holds(tmp_path / "m.mlpackage", model, folded=weight == "float")


def test_codes_are_not_reshaped_where_the_scales_around_them_differ(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 4)).eval()
    spec = {"dtype": "int8", "granularity": {"type": "per_channel", "axis": 1}}
    activations = {"op_input_spec": {"*": spec}, "op_output_spec": {"*": spec}, "op_state_spec": None}
    config = QuantizerConfig.from_dict({"quantization_config": {"global_config": activations}})
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((IMAGE,))
    with quantizer.calibration_mode():
        prepared(IMAGE)
    finalized = quantizer.finalize()
    coreml.convert(finalized, tmp_path / "m.mlpackage", (IMAGE,), target="iOS18")
    assert coreml.check(tmp_path / "m.mlpackage", finalized, (IMAGE,)).ok


def pruned(model: nn.Module, then: str) -> nn.Module:
    pruner = MagnitudePruner(model)
    pruner.prepare((IMAGE,))
    half = pruner.finalize()
    tables = {"lut_qspec": {"dtype": "int8"}} if then == "int8 tables" else {}
    states = {"op_state_spec": {"weight": {"n_bits": 4, **tables}}}
    compressor = (
        Quantizer(half, QuantizerConfig.presets.w8())
        if then == "int8"
        else KMeansPalettizer(half, KMeansPalettizerConfig(global_config=states))
    )
    compressor.prepare((IMAGE,))
    return compressor.finalize()


def test_inputs_of_8_bits_become_int32(tmp_path):
    bytes_of = torch.tensor([[0, 255, 7], [128, 1, 250]], dtype=torch.uint8)
    signed = torch.tensor([[-128, 127, 0], [5, -5, 1]], dtype=torch.int8)
    model = Lambda(lambda a, b, x: (a.float() / 255 * x, b.float() + x, a, a.int() + b))
    inputs = (bytes_of, signed, torch.randn(2, 3))
    coreml.convert(model, tmp_path / "m.mlpackage", inputs)
    assert coreml.check(tmp_path / "m.mlpackage", model, inputs).ok
    graph, _ = coreml.evaluate(tmp_path / "m.mlpackage", inputs)
    assert [each.value.type.dtype for each in graph.inputs] == [DType.INT32, DType.INT32, DType.FLOAT32]


@pytest.mark.parametrize("target", ["iOS18", "iOS26"])
@pytest.mark.parametrize("then", ["int8", "tables", "int8 tables"])
def test_a_sparse_weight_is_stored_once_for_two_calls_and_an_equal_copy(then, target, tmp_path):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1)
    once, often = nn.Sequential(layer), nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), copy.deepcopy(layer))
    taken = []
    for model in (once, often):
        finalized = pruned(model.eval(), then)
        info = coreml.convert(finalized, tmp_path / "m.mlpackage", (IMAGE,), target=target)
        assert coreml.check(tmp_path / "m.mlpackage", finalized, (IMAGE,)).ok
        taken.append(info.weight_bytes)
    assert taken[0] == taken[1]


@pytest.mark.parametrize(
    ("weight", "activation", "said"),
    [
        ("float8 e4m3 per channel", None, "weights of float8_e4m3fn, where int8, uint8, int4, uint4 are possible"),
        ("float4 e2m1 per block", None, "weights of float4_e2m1fn"),
        ("int2 per channel", None, "weights of int2"),
        ("int8 with a minimum value", None, "a minimum value beside the scale"),
        ("float", "int4", "activations of int4, where int8, uint8 are possible"),
        ("float", "float8 e4m3", "activations of float8_e4m3fn"),
    ],
)
def test_what_no_target_can_store_is_refused_and_leaves_nothing(weight, activation, said, tmp_path):
    model = compressed(weight, activation, ExportBackend.CoreAI)
    with pytest.raises(LoweringError, match="iOS26 cannot store") as caught:
        coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target="iOS26")
    assert said in str(caught.value)
    assert "no target can" in str(caught.value)
    assert "can store all" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_activations_need_ios17(tmp_path):
    model = compressed("float", "int8", ExportBackend.CoreAI)
    with pytest.raises(LoweringError, match="activations of int8; iOS17 can"):
        coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target="iOS16")


def test_a_value_may_have_the_name_of_a_rounding_mode(tmp_path):
    def rounded(x):
        floor, trunc = torch.floor(3 * x), torch.trunc(5 * x)
        down, inward = torch.div(x, 0.3, rounding_mode="floor"), torch.div(x, 0.3, rounding_mode="trunc")
        return down - floor, inward - trunc, floor

    x = torch.randn(3, 4)
    coreml.convert(Lambda(rounded), tmp_path / "m.mlpackage", (x,))
    _, found = coreml.evaluate(tmp_path / "m.mlpackage", (x,))

    for output, expected in zip(found, rounded(x), strict=True):
        assert torch.equal(output, expected)


def test_a_value_may_have_the_name_of_a_state(tmp_path):
    class RunningMean(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, x):
            mean = x.mean(0)
            self.mean.copy_(self.mean + mean)
            return x - mean * 2

    x = torch.randn(3, 2)
    coreml.convert(RunningMean(), tmp_path / "m.mlpackage", (x,))
    _, (found,) = coreml.evaluate(tmp_path / "m.mlpackage", (x,))
    torch.testing.assert_close(found, x - x.mean(0) * 2)


def test_values_that_alternate_along_an_axis_are_read_back(tmp_path):
    def alternating(x):
        return torch.stack((x.sin(), x.cos()), 2).flatten(1, 2), torch.stack((x.sin(), x.cos()), -1).flatten(-2)

    x = torch.randn(2, 3, 4)
    info = coreml.convert(Lambda(alternating), tmp_path / "m.mlpackage", (x,))
    _, found = coreml.evaluate(tmp_path / "m.mlpackage", (x,))

    assert "concat" in info.operations
    for output, expected in zip(found, alternating(x), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)


class AttentionOverPositions(nn.Module):
    """Attention between the positions of an image, without weights, beside a skip."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        mixed = torch.softmax(tokens @ tokens.transpose(-1, -2) * 8**-0.5, -1) @ tokens
        return x + mixed.transpose(1, 2).reshape(x.shape)


def test_a_compressed_convolution_with_an_addition_behind_a_transpose_converts(tmp_path):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.positions = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 4, 4, 8))

        def forward(self, x):
            return self.patches(x).permute(0, 2, 3, 1) + self.positions

    x = torch.randn(2, 3, 16, 16)
    quantizer = Quantizer(Patches().eval(), QuantizerConfig.presets.w4())
    quantizer.prepare((x,))
    finalized = quantizer.finalize()
    coreml.convert(finalized, tmp_path / "m.mlpackage", (x,))
    assert coreml.check(tmp_path / "m.mlpackage", finalized, (x,)).ok


def test_a_product_of_a_quantized_value_with_its_transpose_converts(tmp_path):
    x = torch.randn(2, 8, 4, 4)
    quantizer = Quantizer(AttentionOverPositions(), QuantizerConfig())
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode(), torch.no_grad():
        prepared(x)
    finalized = quantizer.finalize(backend=ExportBackend.CoreAI)
    coreml.convert(finalized, tmp_path / "m.mlpackage", (x,))
    assert coreml.check(tmp_path / "m.mlpackage", finalized, (x,)).ok


def test_an_unknown_target_brings_the_near_one(tmp_path):
    with pytest.raises(TargetError, match="iOS18"):
        coreml.convert(network(), tmp_path / "m.mlpackage", (IMAGE,), target="ios18")


def test_a_package_must_be_called_one(tmp_path):
    with pytest.raises(AssetError, match=r"must end in '\.mlpackage'"):
        coreml.convert(network(), tmp_path / "m.aimodel", (IMAGE,))


def test_a_model_that_cannot_be_traced_leaves_the_old_package_whole(tmp_path):
    path = tmp_path / "m.mlpackage"
    coreml.convert(network(), path, (IMAGE,))
    with pytest.raises(ConversionError, match=r"cannot export \S+"):
        coreml.convert(network(), path, (torch.randn(3),))
    assert coreml.check(path, network(), (IMAGE,)).ok


@pytest.mark.parametrize("damage", ["no manifest", "truncated weights", "truncated program"])
def test_a_damaged_package_is_an_error_of_ours(damage, tmp_path):
    path = tmp_path / "m.mlpackage"
    coreml.convert(network(), path, (IMAGE,))
    data = path / "Data" / "com.apple.CoreML"
    if damage == "no manifest":
        (path / "Manifest.json").unlink()
    else:
        (file,) = [data / "weights" / "weight.bin"] if "weights" in damage else data.glob("*.mlmodel")
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(AssetError):
        coreml.from_package(path)


def test_a_package_prints_as_a_graph_and_runs(tmp_path):
    model = compressed("int8 tables", None, ExportBackend.CoreAI)
    coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target="iOS26")
    graph = coreml.from_package(tmp_path / "m.mlpackage")
    assert "quant.lut_to_dense" in str(graph)
    torch.testing.assert_close(run(graph, [IMAGE])[0], model(IMAGE), rtol=1e-4, atol=1e-5)  # its norm is folded


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.abs() + 0.1).reciprocal(),
        lambda x: x.var() + x.std() + x.var(unbiased=False) + x.var((1, -1), keepdim=True) + x.std(0),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool1d(x.flatten(2), 2),
        lambda x: F.max_pool3d(x[:, None], 2, ceil_mode=True),
    ],
    ids=["reciprocal", "variance", "max_pool2d", "max_pool1d", "max_pool3d"],
)
def test_ops_that_coremltools_lacks_or_computes_otherwise_are_spelled_out(function, tmp_path):
    model = Lambda(function)
    coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target="iOS18")
    assert coreml.check(tmp_path / "m.mlpackage", model, (IMAGE,)).ok


class MasksGroups(nn.Module):
    """The mask of the chosen groups of experts, as DeepSeek-V3 makes it from a number."""

    def forward(self, scores):
        chosen = scores.topk(2, dim=-1)[1]
        return torch.zeros_like(scores).scatter_(1, chosen, 1)


def test_a_number_is_scattered_in_the_dtype_of_its_target(tmp_path):
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    coreml.convert(MasksGroups(), tmp_path / "mask.mlpackage", scores)
    assert coreml.check(tmp_path / "mask.mlpackage", MasksGroups(), scores).ok

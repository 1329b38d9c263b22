"""What quantizers make of unusual numbers and spellings: in-place activations, masks, NaN, 16-bit models, padding."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from graphpress.backends.coreai import check, convert, load, read, register
from graphpress.ir import from_module
from graphpress.ir.dtypes import DType
from graphpress.passes.config import default_weight_quantization_spec
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization.quantizer import Quantizer, UncalibratedWarning

register()


def image(seed=0, shape=(2, 3, 8, 8)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calibrated(model, *batches, config=None):
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((batches[0],))
    with quantizer.calibration_mode():
        for batch in batches:
            prepared(batch)
    return quantizer, prepared


def quantized_weights(prepared):
    return [q.name for q in prepared.modules() if getattr(q, "is_state", False)]


def activations(prepared):
    return {q.name: q for q in prepared.modules() if getattr(q, "is_state", None) is False}


# in-place activations


def row(inplace, first, kind):
    activation = {
        "relu": nn.ReLU(inplace),
        "relu6": nn.ReLU6(inplace),
        "leaky_relu": nn.LeakyReLU(0.1, inplace),
        "hardswish": nn.Hardswish(inplace),
        "silu": nn.SiLU(inplace),
        "elu": nn.ELU(inplace=inplace),
    }[kind]
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3) if first == "conv" else nn.Linear(8, 4)
    return nn.Sequential(layer, activation).eval()


@pytest.mark.parametrize("kind", ["relu", "relu6", "leaky_relu", "hardswish", "silu", "elu"])
@pytest.mark.parametrize("first", ["conv", "linear"])
def test_an_in_place_activation_is_quantized_as_the_other_one(first, kind):
    results = [calibrated(row(inplace, first, kind), image(), image(1)) for inplace in (True, False)]
    assert quantized_weights(results[0][1]) == quantized_weights(results[1][1]) != []
    assert len(activations(results[0][1])) == len(activations(results[1][1]))
    assert torch.equal(results[0][1](image()), results[1][1](image()))
    assert torch.equal(results[0][0].finalize()(image()), results[1][0].finalize()(image()))


def vgg():
    torch.manual_seed(0)
    blocks = []
    for i, o in [(3, 8), (8, 8), (8, 16), (16, 16)]:
        blocks += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, ceil_mode=True)]
    head = [nn.Linear(16, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 10)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head).eval()


@pytest.mark.parametrize("config", [None, QuantizerConfig.presets.w8()], ids=["default", "weights"])
def test_every_weight_of_a_vgg_is_quantized(config):
    model = vgg()
    quantizer, prepared = calibrated(model, image(), image(1), config=config)
    assert len(quantized_weights(prepared)) == 6
    finalized = quantizer.finalize()
    ops = [node.op.short_name for node in from_module(finalized, (image(),)).nodes]
    assert ops.count("constexpr_blockwise_shift_scale") == 6
    assert (finalized(image()) - model(image())).abs().max() < 0.1 * model(image()).abs().max()


class Sequences(nn.Module):
    """Layers whose weights have other names than ``weight``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm, self.cell = nn.LSTM(8, 8, batch_first=True), nn.GRUCell(8, 8)
        self.bilinear = nn.Bilinear(8, 8, 4)
        self.matrix = nn.Parameter(torch.randn(4, 4) / 2)

    def forward(self, x):
        x = self.attention(x, x, x)[0]
        x = self.cell(self.lstm(x)[0][:, -1])
        return self.bilinear(x, x) @ self.matrix


def test_weights_by_other_names_are_quantized_by_the_key_for_all():
    model, x = Sequences().eval(), image(0, (2, 5, 8))
    every = ModuleQuantizerConfig(op_state_spec={"*": default_weight_quantization_spec()})
    quantizer, prepared = calibrated(model, x, image(1, (2, 5, 8)), config=QuantizerConfig(global_config=every))
    assert len(quantized_weights(prepared)) == 2 + 2 + 2 + 1 + 1
    got, expected = quantizer.finalize()(x), model(x)
    assert (got - expected).abs().max() < 0.1 * expected.abs().max()


# spellings


@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("kernel", [3, 2])
def test_convolutions_are_quantized_whatever_way_their_padding_is_written(padding, kernel):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, kernel, padding=padding), nn.ReLU()).eval()
    quantizer, prepared = calibrated(model, image(), image(1))
    assert len(quantized_weights(prepared)) == 1
    got, expected = quantizer.finalize()(image()), model(image())
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 0.1 * expected.abs().max()


# numbers that are none


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_calibration_batch_that_is_not_finite_is_skipped_and_counted(bad):
    model = row(False, "conv", "relu")
    poisoned = image(3)
    poisoned[0, 0, 0, 0] = bad
    _, clean = calibrated(model, image(), image(1))
    quantizer, prepared = calibrated(model, image(), poisoned, image(1))
    assert torch.equal(prepared(image()), clean(image()))
    assert quantizer.finalize()(image()).isfinite().all()
    assert all(int(q.calculator.skipped) == 1 for q in activations(prepared).values())


def test_skipped_batches_are_reported_when_finalizing():
    poisoned = image(3)
    poisoned[0] = float("nan")
    quantizer, _ = calibrated(row(False, "conv", "relu"), image(), poisoned, image(1))
    with pytest.warns(UserWarning, match="finite"):
        quantizer.finalize()


def test_calibration_with_nothing_but_nan_is_like_no_calibration():
    quantizer, _ = calibrated(row(False, "conv", "relu"), image() * float("nan"))
    with pytest.warns(UncalibratedWarning):
        finalized = quantizer.finalize()
    assert finalized(image()).isfinite().all()


class Masked(nn.Module):
    """Attention scores with a mask added before the softmax."""

    def __init__(self, edge):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        mask = torch.full((6, 6), edge).triu(1)
        self.register_buffer("mask", mask)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / 8**0.5 + self.mask
        return scores.softmax(-1) @ x


@pytest.mark.parametrize("edge", [float("-inf"), torch.finfo(torch.float32).min], ids=["infinite", "lowest"])
def test_an_attention_mask_through_a_quantized_add_keeps_its_edges(edge):
    model = Masked(edge).eval()
    batches = [image(seed, (2, 6, 8)) for seed in range(4)]
    quantizer, prepared = calibrated(model, *batches)
    for module in (prepared, quantizer.finalize()):
        got, expected = module(batches[0]), model(batches[0])
        assert got.isfinite().all()
        error = (got - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < 0.1


# ranges


@pytest.mark.parametrize("size", [0.0, 100.0])
def test_an_example_of_any_size_is_forgotten_when_the_first_batch_comes(size):
    model = row(False, "conv", "leaky_relu")
    ranges = []
    for example in (size * image(), image()):
        quantizer = Quantizer(model)
        prepared = quantizer.prepare((example,))
        with quantizer.calibration_mode():
            for seed in range(3):
                prepared(image(seed))
        ranges.append({name: float(each.qparams()[0]) for name, each in activations(prepared).items()})
    assert ranges[0] == ranges[1]


def test_the_example_counts_as_one_observation():
    quantizer = Quantizer(row(False, "conv", "relu"))
    prepared = quantizer.prepare((image(),))
    assert {int(q.calculator.observations) for q in activations(prepared).values()} == {1}
    with quantizer.calibration_mode():
        prepared(image(1))
    assert {int(q.calculator.observations) for q in activations(prepared).values()} == {2}


# other dtypes


class Float(nn.Module):
    """Layers, an addition and a norm, in any floating dtype."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.skip, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))) + self.skip(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("config", [None, QuantizerConfig.presets.w8()], ids=["default", "weights"])
def test_prepared_and_finalized_models_of_other_dtypes_are_equal(dtype, config):
    model = Float().eval().to(dtype)
    quantizer, prepared = calibrated(model, image().to(dtype), image(1).to(dtype), config=config)
    finalized = quantizer.finalize()
    x = image(2).to(dtype)
    assert prepared(x).dtype == finalized(x).dtype == dtype
    assert torch.equal(prepared(x), finalized(x))
    expected = model(x)
    assert (finalized(x) - expected).abs().max() <= 0.1 * expected.abs().max()


@pytest.mark.parametrize("dtype", ["uint8", "float8_e4m3fn", "float8_e5m2"])
def test_activations_of_other_types_are_equal_in_prepared_and_finalized_models(dtype):
    spec = QuantizationSpec(dtype=dtype, qscheme="symmetric")
    config = QuantizerConfig()
    config.global_config.op_input_spec = {"*": spec}
    config.global_config.op_output_spec = {"*": spec}
    quantizer, prepared = calibrated(row(False, "conv", "leaky_relu"), image(), image(1), config=config)
    assert torch.equal(quantizer.finalize()(image(2)), prepared(image(2)))


@pytest.mark.parametrize("formulation", ["zp", "minval"])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric", "symmetric_with_clipping"])
def test_every_scheme_and_formulation_is_equal_in_prepared_and_finalized_models(scheme, formulation):
    spec = QuantizationSpec(qscheme=scheme, qformulation=formulation)
    config = QuantizerConfig()
    config.global_config.op_input_spec = {"*": spec}
    config.global_config.op_output_spec = {"*": spec}
    config.global_config.op_state_spec = {"weight": spec}
    quantizer, prepared = calibrated(row(False, "conv", "leaky_relu"), image(), image(1), config=config)
    far = 5 * image(2)  # beyond the range that was seen
    assert torch.equal(quantizer.finalize()(far), prepared(far))


# tied weights, conversion


class Tied(nn.Module):
    """An embedding whose weight is the head's, too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.relu(self.embedding(tokens)))


def test_a_tied_weight_is_quantized_once_and_stored_once():
    tokens = torch.arange(8).reshape(2, 4)
    quantizer, prepared = calibrated(Tied().eval(), tokens, config=QuantizerConfig.presets.w8())
    assert len(quantized_weights(prepared)) == 1
    finalized = quantizer.finalize()
    stored = [tensor for tensor in finalized.state_dict().values() if tensor.shape == (32, 16)]
    assert len(stored) == 1
    assert stored[0].dtype == torch.int8
    assert torch.equal(finalized(tokens), prepared(tokens))


def test_the_finalized_model_converts_stays_packed_and_runs(tmp_path):
    model = copy.deepcopy(vgg())
    quantizer, _ = calibrated(model, image(), image(1))
    finalized = quantizer.finalize()
    path = tmp_path / "vgg.aimodel"
    convert(finalized, path, (image(),))
    report = check(path, finalized, (image(2),))
    assert report.ok, report
    weights = [c for c in read(path).constants if c.dtype is DType.INT8 and math.prod(c.shape) > 64]
    assert len(weights) == 6


def test_activations_of_four_bits_convert_with_their_zero_points(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid()).eval()
    spec = QuantizationSpec(dtype="int4")
    config = QuantizerConfig()
    config.global_config.op_input_spec = config.global_config.op_output_spec = {"*": spec}
    quantizer, prepared = calibrated(model, image(), image(1), config=config)
    zero_points = [q.qparams()[1] for q in activations(prepared).values()]
    assert any(zero_point is not None for zero_point in zero_points)
    path = tmp_path / "four.aimodel"
    finalized = quantizer.finalize()
    convert(finalized, path, (image(),))
    report = check(path, finalized, (image(2),))
    assert report.ok, report
    assert torch.equal(torch.as_tensor(load(path)(image(2))), prepared(image(2)))

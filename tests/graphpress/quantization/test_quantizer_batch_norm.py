"""Batch norms through the quantizer: after `finalize` no norm arithmetic that folding can remove is left."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphpress.backends.coreai import register
from graphpress.ir import from_module
from graphpress.quantization import QuantizerConfig
from graphpress.quantization.quantizer import Quantizer

W8 = QuantizerConfig.presets.w8()


def randomized(model):
    """Parameters and statistics with a life of their own."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.3)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.4)
            module.bias.data.copy_(torch.randn(module.num_features, generator=generator) / 3)
    return model.eval()


def image(*shape, seed=0):
    return torch.randn(shape or (2, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def calibrated(model, x, config=None):
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode():
        prepared(x)
        prepared(x)
    return quantizer, prepared


def ops(module, x):
    """The ops a backend would see, in order."""
    return [node.op.short_name for node in from_module(module, (x,)).nodes]


def assert_folded(model, x, config=None, tolerance=0.05):
    """Prepared and finalized are near the float model, and no norm arithmetic is left in either."""
    expected = model(x)
    quantizer, prepared = calibrated(model, x, config)
    finalized = quantizer.finalize()
    names = ops(finalized, x)
    assert not {"batch_norm", "mul", "div", "sub", "sqrt", "rsqrt"} & set(names), names
    scale = expected.abs().max()
    for module in (prepared, finalized):
        assert (module(x) - expected).abs().max() <= tolerance * scale
    return names


class Sequence(nn.Sequential):
    """Modules in a row, with another name than torch's."""


LAYERS = {
    "conv2d": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), image()),
    "conv2d without bias": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), image()),
    "conv2d with same padding": (nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), image()),
    "conv2d with valid padding": (nn.Conv2d(4, 6, 3, padding="valid"), nn.BatchNorm2d(6), image()),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.BatchNorm2d(4), image()),
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), image(2, 4, 8)),
    "conv3d": (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), image(1, 4, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6), image()),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), image()),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), image(2, 4, 8)),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), image(3, 4)),
    "norm without affine parameters": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), image()),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("config", [None, W8], ids=["weights and activations", "weights"])
def test_a_norm_after_a_layer_folds_into_it(case, config):
    layer, norm, x = LAYERS[case]
    names = assert_folded(randomized(Sequence(layer, norm, nn.ReLU())), x, config)
    assert sum(name.startswith(("conv", "linear")) for name in names) == 1


def test_a_norm_without_running_statistics_stays_and_works():
    model = Sequence(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()).eval()
    quantizer, prepared = calibrated(model, image())
    finalized = quantizer.finalize()
    assert sum("norm" in name for name in ops(finalized, image())) == 1
    for module in (prepared, finalized):
        assert (module(image()) - model(image())).abs().max() < 0.05 * model(image()).abs().max()


def test_conv_dropout_norm_folds():
    assert_folded(randomized(Sequence(nn.Conv2d(4, 6, 3), nn.Dropout(0.5), nn.BatchNorm2d(6))), image())


def test_two_norms_in_a_row_fold():
    assert_folded(randomized(Sequence(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6))), image())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_norm_before_a_layer_without_padding_folds_into_it(groups):
    assert_folded(randomized(Sequence(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=groups))), image())


def test_a_norm_before_a_layer_with_padding_becomes_a_product_and_a_sum():
    model = randomized(Sequence(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)))
    quantizer, _ = calibrated(model, image())
    names = ops(quantizer.finalize(), image())
    assert (names.count("mul"), names.count("add")) == (1, 1)
    assert not {"batch_norm", "div", "sub", "sqrt"} & set(names)


def test_a_norm_over_the_last_but_one_axis_after_linear_becomes_a_product_and_a_sum():
    model = randomized(Sequence(nn.Linear(8, 5), nn.BatchNorm1d(3)))
    quantizer, prepared = calibrated(model, image(2, 3, 8))
    finalized = quantizer.finalize()
    names = ops(finalized, image(2, 3, 8))
    assert (names.count("mul"), names.count("add"), names.count("batch_norm")) == (1, 1, 0)
    assert (finalized(image(2, 3, 8)) - prepared(image(2, 3, 8))).abs().max() < 1e-6


class TwoNorms(nn.Module):
    """One convolution read by two norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)
        self.one, self.other = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.conv(x)
        return self.one(x) + self.other(x)


class ReadTwice(nn.Module):
    """A convolution whose output skips its norm, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class SharedConvolution(nn.Module):
    """One convolution called twice, with a norm of its own for each call."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.one, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.other(self.conv(self.one(self.conv(x))))


class WeightFromOutside(nn.Module):
    """A convolution whose weight is an input of the model."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x, weight):
        return self.norm(nn.functional.conv2d(x, weight))


@pytest.mark.parametrize("kind", [TwoNorms, ReadTwice])
def test_a_convolution_with_two_readers_works_and_its_norms_cost_less_than_a_second_one(kind):
    model = randomized(kind())
    quantizer, prepared = calibrated(model, image())
    finalized = quantizer.finalize()
    names = ops(finalized, image())
    assert names.count("conv2d") == 1
    assert names.count("mul") <= 2
    assert not {"batch_norm", "div", "sqrt"} & set(names)
    for module in (prepared, finalized):
        assert (module(image()) - model(image())).abs().max() < 0.1 * model(image()).abs().max()


def test_a_convolution_called_twice_is_split_where_each_call_has_its_norm():
    names = assert_folded(randomized(SharedConvolution()), image(), tolerance=0.1)
    assert names.count("conv2d") == 2


def test_a_norm_after_a_weight_from_outside_stays():
    model = randomized(WeightFromOutside())
    arguments = (image(), image(6, 4, 3, 3, seed=1))
    quantizer = Quantizer(model)
    prepared = quantizer.prepare(arguments)
    with quantizer.calibration_mode():
        prepared(*arguments)
        prepared(*arguments)
    finalized = quantizer.finalize()
    assert torch.allclose(finalized(*arguments), prepared(*arguments), atol=0.05)
    names = [node.op.short_name for node in from_module(finalized, arguments).nodes]
    assert "batch_norm" not in names
    assert (names.count("mul"), names.count("add")) == (1, 1)


def conv_norm_relu(length=3):
    blocks = []
    for _ in range(length):
        blocks += [nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    return randomized(Sequence(*blocks))


def test_a_network_has_exactly_one_convolution_per_pair_and_its_weights_stay_packed():
    names = assert_folded(conv_norm_relu(), image(), tolerance=0.1)
    assert names.count("conv2d") == 3
    assert names.count("constexpr_blockwise_shift_scale") == 3


def test_training_uses_and_updates_the_statistics_of_the_batch():
    quantizer = Quantizer(conv_norm_relu())
    prepared = quantizer.prepare((image(),))
    before = {name: buffer.clone() for name, buffer in prepared.named_buffers() if "running_mean" in name}
    assert before
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
    with quantizer.training_mode():
        loss = prepared(image(seed=1)).square().mean()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())
    after = dict(prepared.named_buffers())
    changed = [name for name, buffer in before.items() if "calculator" not in name and not after[name].equal(buffer)]
    assert len(changed) == 3
    assert not prepared.training
    finalized = quantizer.finalize()
    assert (finalized(image()) - prepared(image())).abs().max() < 0.05 * prepared(image()).abs().max()


def test_training_with_statistics_of_the_batch_computes_what_the_float_model_in_training_does():
    model = Sequence(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    randomized(model)
    quantizer = Quantizer(model)
    prepared = quantizer.prepare((image(),))
    reference = copy.deepcopy(model).train()
    with quantizer.training_mode():
        quantizer.disable_fake_quant()
        got = prepared(image(seed=1))
    expected = reference(image(seed=1))
    assert torch.allclose(got, expected, atol=1e-4)
    statistics = dict(prepared.named_buffers())
    (name,) = [name for name in statistics if name.endswith("1.running_mean") or name.endswith("_running_mean")]
    assert torch.allclose(statistics[name], reference[1].running_mean, atol=1e-5)


coreai = torch.ops.coreai
register()


class TableConv(nn.Module):
    """A convolution as palettization leaves it: indices and a table, of floats or of int8 with a scale."""

    def __init__(self, channels=4, lut_dtype=torch.int8, tables=1):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        indices = torch.randint(0, 16, (channels, 4, 3, 3), generator=generator, dtype=torch.uint8)
        lut = torch.randn(tables, 1, 1, 1, 16, 1, generator=generator) * (40 if lut_dtype == torch.int8 else 0.2)
        self.register_buffer("weight_indices", indices)
        self.register_buffer("weight_lut", lut.round().to(lut_dtype) if lut_dtype == torch.int8 else lut.to(lut_dtype))
        scale = torch.full((1, 1, 1, 1), 1 / 200) if lut_dtype == torch.int8 else None
        self.register_buffer("weight_scale", scale)

    def forward(self, x):
        weight = coreai.lut_to_dense(self.weight_indices, self.weight_lut, 0)
        if self.weight_scale is not None:
            weight = coreai.constexpr_blockwise_shift_scale(weight, self.weight_scale, None, None, torch.int8, None)
        return nn.functional.conv2d(x, weight, padding=1)


TABLES = {
    "int8 table": {"lut_dtype": torch.int8},
    "int8 tables of channel groups": {"lut_dtype": torch.int8, "tables": 2},
    "float table per channel": {"lut_dtype": torch.float32, "tables": 4},
    "float table": {"lut_dtype": torch.float32},
}


@pytest.mark.parametrize("case", TABLES)
def test_a_norm_folds_through_palettized_weights_when_activations_are_quantized(case):

    model = randomized(Sequence(TableConv(**TABLES[case]), nn.BatchNorm2d(4), nn.ReLU(inplace=True)))
    names = assert_folded(model, image(), tolerance=0.1)
    assert names.count("conv2d") == 1
    assert names.count("lut_to_dense") == 1, "the weight was expanded"
    assert "quantize" in names

"""Biases that take back what rounding shifts, and layers that share their ranges, in prepared and finalized models."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphpress.quantization import Quantizer
from graphpress.quantization.refinement.layers import refinable_layers
from graphpress.quantization.refinement.refine import analytic_shift
from tests.graphpress.quantization.refinement.test_refining import batches, calibrated, config, error, model

OPTIONS = {
    "empirical": {"bias_correction": "empirical"},
    "analytic": {"bias_correction": "analytic"},
    "equalized": {"equalize_layers": True},
    "all": {"bias_correction": "empirical", "equalize_layers": True, "weight_rounding": "gptq"},
}


def outputs(module: nn.Module, name: str) -> torch.Tensor:
    """The mean output of each channel of a layer over the calibration data."""
    seen = []
    handle = dict(module.named_modules())[name].register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        for x in batches():
            module(x)
    handle.remove()
    return torch.cat(seen).movedim(1, -1).flatten(0, -2).mean(0)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_finalized_model_does_what_the_prepared_one_does(options):
    quantizer, prepared = calibrated(config(**options))
    finalized = quantizer.finalize()
    for x in batches(2):
        torch.testing.assert_close(finalized(x), prepared(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_they_go_through_a_state_dict_and_a_copy(options):
    _, prepared = calibrated(config(**options))
    x = batches()[0]
    assert torch.equal(copy.deepcopy(prepared)(x), prepared(x))
    again = Quantizer(model(), config(**options)).prepare((x,))
    again.load_state_dict(prepared.state_dict())
    assert torch.equal(again(x), prepared(x))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_without_fake_quantization_the_model_is_the_float_model(options):
    quantizer, prepared = calibrated(config(**options))
    x = batches()[0]
    with quantizer.calibration_mode():
        torch.testing.assert_close(prepared(x), model()(x), rtol=1e-4, atol=1e-4)


def test_empirical_corrections_keep_the_mean_of_every_channel():
    _, plain = calibrated(config())
    _, corrected = calibrated(config(bias_correction="empirical"))
    reference = outputs(model(), "norm")
    shifted, kept = outputs(plain, "layers.conv2d"), outputs(corrected, "layers.conv2d")
    assert (shifted - reference).abs().max() > 1e-3
    torch.testing.assert_close(kept, reference, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        mean_error = [torch.cat([m(x) - model()(x) for x in batches()]).mean(0).abs().max() for m in (plain, corrected)]
    assert mean_error[1] < 1e-4 < mean_error[0]


def test_corrections_lower_the_error_on_other_data():
    _, plain = calibrated(config())
    _, corrected = calibrated(config(bias_correction="empirical"))
    assert error(corrected) < error(plain)


class NormReluLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(functional.relu(self.norm(self.first(x))))


@pytest.mark.parametrize("equalize", [False, True])
def test_analytic_shifts_are_those_of_normal_inputs(equalize):
    torch.manual_seed(0)
    made = NormReluLayer().eval()
    with torch.no_grad():
        made.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 1.5, 1e-3]))
        made.norm.bias.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0]))
    quantizer = Quantizer(made, config({"dtype": "int2"}, bias_correction="analytic", equalize_layers=equalize))
    prepared = quantizer.prepare((torch.randn(1, 2, 4, 4),))
    layer = refinable_layers(prepared)[1]
    grid = torch.linspace(-12, 12, 200001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    gamma, beta = made.norm.weight.detach().double(), made.norm.bias.detach().double()
    mean = ((grid[:, None] * gamma + beta).clamp(min=0) * density[:, None]).sum(0)
    if equalize:
        factor = next(v for n, v in prepared.named_buffers() if n.endswith("factor") and "inverse" not in n)
        mean = mean * factor.double()
    weight = layer.read_weight()
    rounded = layer.quantizer.quantize(weight, layer.quantizer.qparams(weight))
    expected = (rounded - weight).double().flatten(1) @ mean
    torch.testing.assert_close(analytic_shift(prepared, layer), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.correction, -expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, *OPTIONS.values()], ids=["plain", *OPTIONS])
def test_training_with_batch_statistics_is_that_of_the_float_model(options):
    """With rounding off, a training step must not notice what was moved or corrected."""
    options = {name: value for name, value in options.items() if name == "equalize_layers"} | {
        "bias_correction": options.get("bias_correction", "none")
    }
    quantizer = Quantizer(model(), config(**options))
    x = batches()[0]
    prepared, reference = quantizer.prepare((x,)), model()
    if options["bias_correction"] == "analytic":
        for layer in refinable_layers(prepared):
            layer.correction.zero_()
    quantizer.disable_fake_quant()
    for module in (prepared, reference):
        module.train()
        module(x).square().mean().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in prepared.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(prepared.state_dict()["norm.running_mean"], reference.norm.running_mean)


def test_equalized_weights_lose_less_per_tensor():
    torch.manual_seed(0)
    uneven = model()
    with torch.no_grad():
        uneven.grouped.weight *= torch.logspace(-2, 1, 12).reshape(-1, 1, 1, 1)
        uneven.grouped.bias *= torch.logspace(-2, 1, 12)
        uneven.up.weight *= torch.logspace(2, -1, 12).reshape(-1, 1, 1, 1)
    errors = []
    for equalize in (False, True):
        quantizer = Quantizer(
            copy.deepcopy(uneven), config({"granularity": "per_tensor", "dtype": "int8"}, equalize_layers=equalize)
        )
        prepared = quantizer.prepare((batches()[0],))
        with torch.no_grad():
            errors.append(sum(float((prepared(x) - uneven(x)).square().sum()) for x in batches()))
    assert errors[1] < 0.3 * errors[0]

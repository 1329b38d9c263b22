"""Gradients of fake-quantizers equal straight-through references that are written out here, by autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphpress.passes.config.errors import SpecError
from graphpress.quantization import LearnableFakeQuantize, ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization.fake_quantize import FakeQuantize
from graphpress.quantization.quantizer import Quantizer
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity, PerTensorGranularity


class RoundingAsIdentity(torch.autograd.Function):
    """Applies a function forward; backward it is the identity."""

    @staticmethod
    def forward(ctx, data, rounding):
        return rounding(data)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def straight_through(x, spec, scale, zero_point=None, minval=None):
    """The textbook: round with the gradient of the identity, clamp with the gradient of clamp."""
    if not spec.dtype.is_floating_point:
        low, high = int(spec.quant_min), int(spec.quant_max)
        if minval is not None:
            codes = RoundingAsIdentity.apply((x - minval) / scale, torch.round) + low
            return (codes.clamp(low, high) - low) * scale + minval
        zero_point = 0 if zero_point is None else zero_point
        codes = RoundingAsIdentity.apply(x / scale, torch.round) + zero_point
        return (codes.clamp(low, high) - zero_point) * scale
    largest = torch.finfo(spec.dtype).max
    clamped = (x / scale).clamp(-largest, largest)
    return RoundingAsIdentity.apply(clamped, lambda v: v.to(spec.dtype).float()) * scale


def expanded(parameter, shape):
    """One entry for each element, from one for each block."""
    if parameter is None or parameter.ndim == 0:
        return parameter
    for axis, (count, extent) in enumerate(zip(parameter.shape, shape, strict=True)):
        parameter = parameter.repeat_interleave(extent // count, axis)
    return parameter


SHAPE = (6, 8)
GRANULARITIES = {
    "tensor": (PerTensorGranularity(), ()),
    "channel": (PerChannelGranularity(axis=0), (1, -1)),
    "block": (PerBlockGranularity(axis=1, block_size=4), (1, 4)),
}
INTEGERS = list(
    itertools.product(
        ["int8", "uint4", "int2"], ["symmetric", "asymmetric", "symmetric_with_clipping"], ["zp", "minval"]
    )
)
KINDS = [
    *(dict(zip(("dtype", "qscheme", "qformulation"), kind, strict=True)) for kind in INTEGERS),
    {"dtype": "float8_e4m3fn"},
    {"dtype": "float8_e5m2"},
]


def observed(cls, spec, block, seed=0):
    """A fake-quantizer that has seen half the range of the data it will get, and the data: so some is clipped."""
    quantizer = cls("q", spec, block)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) + 0.4
    quantizer.observer_enabled = True
    quantizer.eval()(x / 2)
    quantizer.observer_enabled = False
    return quantizer, x.requires_grad_()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_the_gradient_is_one_where_a_code_was_found_and_zero_where_it_was_clipped(kind, granularity):
    chosen, block = GRANULARITIES[granularity]
    spec = QuantizationSpec(**kind, granularity=chosen, qparam_calculator_cls="moving_average")
    quantizer, x = observed(FakeQuantize, spec, block)
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    output = quantizer(x)
    (gradient,) = torch.autograd.grad((output * weights).sum(), x)
    parameters = [expanded(p, SHAPE) for p in quantizer.qparams()]
    reference = straight_through(x, spec, *parameters)
    (expected,) = torch.autograd.grad((reference * weights).sum(), x)
    assert torch.equal(output, reference)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)
    clipped = gradient == 0
    assert clipped.any()
    assert not clipped.all()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_the_logarithm_of_a_learned_scale_gets_the_gradient_of_autograd(kind, granularity):
    chosen, block = GRANULARITIES[granularity]
    spec = QuantizationSpec(**kind, granularity=chosen, qparam_calculator_cls="moving_average")
    quantizer, x = observed(LearnableFakeQuantize, spec, block)
    quantizer.train()
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    output = quantizer(x)
    gradient, scale_gradient = torch.autograd.grad((output * weights).sum(), (x, quantizer.scale_change))
    scale, zero_point, minval = quantizer.qparams()
    leaf = scale.clone().requires_grad_()
    parameters = [expanded(p, SHAPE) for p in (leaf, zero_point, minval)]
    reference = straight_through(x, spec, *parameters)
    expected, by_scale = torch.autograd.grad((reference * weights).sum(), (x, leaf))
    assert torch.equal(output, reference)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(scale_gradient, by_scale * scale, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.02, 0.06, 0.1])
def test_the_gradient_of_a_learned_scale_is_the_slope_of_the_error(scale):
    """Over densely spread data, the straight-through gradient of the squared error is its finite difference."""
    spec = QuantizationSpec(dtype="int4", qparam_calculator_cls="global_minmax")
    x = torch.linspace(-1, 1, 200_001)

    def error(factor):
        quantizer = LearnableFakeQuantize("q", spec)
        quantizer.observer_enabled = True
        quantizer.eval()(torch.tensor([-7.5 * scale, 7.5 * scale]))
        quantizer.observer_enabled = False
        with torch.no_grad():
            quantizer.scale_change.fill_(factor)
        return quantizer, (quantizer(x) - x).square().mean()

    step = 0.02
    slope = (error(step)[1] - error(-step)[1]) / (2 * step)
    quantizer, loss = error(0.0)
    (gradient,) = torch.autograd.grad(loss, quantizer.scale_change)
    assert float(gradient) == pytest.approx(float(slope), rel=0.05)


def test_learning_the_scale_finds_one_with_less_error():
    spec = QuantizationSpec(dtype="int4", fake_quantize_cls="learnable", qparam_calculator_cls="global_minmax")
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    quantizer = LearnableFakeQuantize("q", spec)
    quantizer.observer_enabled = True
    quantizer.eval()(x)
    quantizer.train()
    first = float((quantizer(x) - x).square().mean())
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    scale = quantizer.initial_scale * torch.linspace(0.3, 1.2, 91).exp2() / 2
    best = min(float((straight_through(x, spec, s) - x).square().mean()) for s in scale)
    assert float((quantizer(x) - x).square().mean()) < 1.02 * best < 0.7 * first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float8_e4m3fn", "scale_dtype": "float8_e8m0fnu"}, "are float32, scale_dtype is"),
        ({"qparam_calculator_cls": "dynamic"}, "'dynamic' computes the scale from each tensor"),
    ],
)
def test_scales_that_cannot_be_learned_are_refused(changes, message):
    spec = QuantizationSpec(**changes, fake_quantize_cls="learnable")
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_input_spec={"*": spec}))
    with pytest.raises(SpecError, match=message):
        Quantizer(nn.Linear(4, 4), config).prepare((torch.randn(2, 4),))


def test_a_fixed_range_leaves_nothing_to_learn():
    spec = QuantizationSpec(float_range=(-1.0, 1.0), fake_quantize_cls="learnable")
    quantizer, x = observed(LearnableFakeQuantize, spec, ())
    assert not quantizer.scale_change.requires_grad
    quantizer.train()(x).sum().backward()
    assert quantizer.scale_change.grad is None
    assert float(quantizer.qparams()[0]) == pytest.approx(1 / 127.5, rel=1e-4)


# whole layers


def ranges(prepared):
    """The parameters of every quantizer, by name."""
    found = {m.name: m for m in prepared.modules() if isinstance(m, FakeQuantize)}
    return {name: (m.spec, m) for name, m in found.items()}


def test_a_linear_layer_gets_the_gradients_of_the_written_out_reference():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU())
    quantizer = Quantizer(model)
    x = torch.randn(7, 6)
    prepared = quantizer.prepare((x / 3,))
    with quantizer.training_mode():
        quantizer.disable_observer()
        given = x.clone().requires_grad_()
        prepared(given).square().sum().backward()
    found = ranges(prepared)
    weight, bias = (p.detach().clone().requires_grad_() for p in model[0].parameters())
    entered = x.clone().requires_grad_()

    def through(name, value):
        spec, module = found[name]
        return straight_through(value, spec, *(expanded(p, value.shape) for p in module.qparams(value.detach())))

    middle = functional.linear(through("linear_input", entered), through("linear_weight", weight), bias)
    through("gelu_output", functional.gelu(middle)).square().sum().backward()
    parameters = dict(prepared.named_parameters())
    torch.testing.assert_close(given.grad, entered.grad)
    torch.testing.assert_close(parameters["0.weight"].grad, weight.grad)
    torch.testing.assert_close(parameters["0.bias"].grad, bias.grad)
    assert (given.grad == 0).any(), "nothing was clipped"


@pytest.mark.parametrize("frozen", [False, True])
def test_a_convolution_with_batch_norm_gets_the_gradients_of_the_written_out_reference(frozen):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.running_var.uniform_(0.5, 2)
        norm.running_mean.normal_()
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    quantizer = Quantizer(nn.Sequential(conv, norm), QuantizerConfig.presets.w4())
    x = torch.randn(5, 3, 6, 6)
    prepared = quantizer.prepare((x,))
    if frozen:
        quantizer.freeze_batch_norm()
    with quantizer.training_mode():
        prepared(x).square().sum().backward()

    leaves = [p.detach().clone().requires_grad_() for p in (conv.weight, conv.bias, norm.weight, norm.bias)]
    weight, bias, gamma, beta = leaves
    factor = gamma / (norm.running_var + norm.eps).sqrt()
    folded = weight * factor.reshape(-1, 1, 1, 1)
    spec, module = ranges(prepared)["conv2d_weight"]
    rounded = straight_through(folded, spec, expanded(module.qparams(folded.detach())[0], folded.shape))
    if frozen:
        output = functional.conv2d(x, rounded, (bias - norm.running_mean) * factor + beta)
    else:
        plain = functional.conv2d(x, rounded) / factor.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)
        mean, variance = plain.mean((0, 2, 3), keepdim=True), plain.var((0, 2, 3), keepdim=True, unbiased=False)
        output = (plain - mean) / (variance + norm.eps).sqrt()
        output = output * gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)
    output.square().sum().backward()
    parameters = dict(prepared.named_parameters())
    for name, leaf in zip(("0.weight", "0.bias", "1.weight", "1.bias"), leaves, strict=True):
        torch.testing.assert_close(
            parameters[name].grad, leaf.grad, rtol=1e-3, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}"
        )

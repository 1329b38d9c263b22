"""Value by value, a finalized model holds what its prepared model computed: weights exactly, activations to a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from graphpress.ir import Interpreter, from_module
from graphpress.passes.analysis.layers import layer_of
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.expressions import ConstantExpression
from graphpress.quantization.ties import Following, Recorded, compare_finalized
from graphpress.tools.edsr import load_trained
from graphpress.tools.edsr.images import calibration_images
from graphpress.tools.models import mobilenet_v2, small_resnet

torch.set_num_threads(1)


def noise() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 32, 32, generator=generator) for _ in range(3)]


def both(dtype: torch.dtype, activation: torch.dtype = torch.uint8, **spec: Any) -> QuantizerConfig:
    weights = QuantizationSpec(dtype=dtype, granularity="per_channel", **spec)
    activations = QuantizationSpec(dtype=activation, qscheme="asymmetric")
    each = ModuleQuantizerConfig(
        op_state_spec={"weight": weights}, op_input_spec={"*": activations}, op_output_spec={"*": activations}
    )
    return QuantizerConfig(global_config=each)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[torch.Tensor]], QuantizerConfig]] = {
    "small_resnet": (small_resnet, noise, QuantizerConfig()),
    "small_resnet, 4 bits": (small_resnet, noise, both(torch.int4)),
    "small_resnet, minimum values": (
        small_resnet,
        noise,
        both(torch.uint8, qscheme="asymmetric", qformulation="minval"),
    ),
    "small_resnet, activations of 4 bits": (small_resnet, noise, both(torch.int8, torch.uint4)),
    "MobileNetV2": (mobilenet_v2, lambda: [batch.repeat(1, 1, 2, 2)[:1] for batch in noise()], QuantizerConfig()),
    "EDSR": (load_trained, lambda: calibration_images(3, 24), QuantizerConfig()),
    "EDSR, 4 bits": (load_trained, lambda: calibration_images(3, 24), both(torch.int4)),
}


@pytest.fixture(scope="module", params=CASES)
def models(request) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A calibrated prepared model, the finalized one, and an input."""
    build, batches, config = CASES[request.param]
    first, *rest = batches()
    quantizer = Quantizer(build(), config)
    prepared = quantizer.prepare((first,))
    with quantizer.calibration_mode():
        for batch in rest:
            prepared(batch)
    return prepared.eval(), quantizer.finalize(), first


def test_weights_are_equal_bit_for_bit(models):
    prepared, finalized, x = models
    computed, stored = computed_weights(prepared, x), stored_weights(finalized, x)
    assert len(computed) == len(stored) > 5
    for ours, theirs in zip(computed, stored, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_a_finalized_model_is_the_prepared_one_but_for_ties_of_one_step(models):
    """Each op, fed what the prepared model fed it, gives codes at most one step away, and nearly all the same.

    So a difference of more than one step in what a whole model gives is made by its own layers, from a tie before
    them: with ties put back, layer by layer, both models are equal to the last bit.
    """
    prepared, finalized, x = models
    expected = fake_quantized(prepared, x)
    following = Following(finalized, expected)
    with torch.no_grad():
        output, ours, theirs = following.run(x), prepared(x), finalized(x)
    assert following.steps.keys() == expected.keys()
    assert len(expected) > 10
    assert max(following.steps.values()) <= 1
    assert max(following.errors.values()) == 0
    assert following.ties <= 1e-5 * sum(values.numel() for values in expected.values())
    assert torch.equal(output, ours)
    if not following.ties:
        assert torch.equal(theirs, ours)


def test_a_last_op_that_is_a_step_off_everywhere_is_noticed(models):
    prepared, finalized, x = models
    expected = fake_quantized(prepared, x)
    last = next(reversed(expected))
    following = Following(finalized, {**expected, last: expected[last] + expected[last].unique().diff().min()})
    with torch.no_grad():
        following.run(x)
    assert following.ties > expected[last].numel() / 2


def fake_quantized(prepared: fx.GraphModule, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every fake-quantized activation of a prepared model, by the name of its node."""
    recorded = Recorded(prepared)
    with torch.no_grad():
        recorded.run(x)
    return recorded.activations


def computed_weights(prepared: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The weights that a prepared model convolves with, in order."""
    found: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: found.append(output))
        for module in prepared.modules()
        if isinstance(module, ConstantExpression)
    ]
    with torch.no_grad():
        prepared(x)
    for hook in hooks:
        hook.remove()
    return [weight for weight in found if weight.ndim > 1]


def stored_weights(finalized: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The weights that a finalized model's exported program convolves with, in order."""
    graph = from_module(finalized, (x,))
    values: dict[int, Any] = {id(constant.value): constant.tensor for constant in graph.constants.values()}
    Interpreter(
        graph,
        observe=lambda node, results: values.update({id(v): r for v, r in zip(node.results, results, strict=True)}),
    ).run([x])
    return [values[id(node.operands["weight"])] for node in graph.nodes if layer_of(node) is not None]


@pytest.fixture
def deep() -> tuple[fx.GraphModule, fx.GraphModule, torch.Tensor]:
    """A calibrated MobileNetV2 with random weights, the finalized model, and an input."""
    first, second, x = (batch.repeat(1, 1, 2, 2)[:1] for batch in noise())
    quantizer = Quantizer(mobilenet_v2())
    prepared = quantizer.prepare((first,))
    with quantizer.calibration_mode():
        prepared(second)
    return prepared, quantizer.finalize(), x


def one_step(prepared: fx.GraphModule, name: str, x: torch.Tensor) -> Callable[..., torch.Tensor]:
    """A hook that moves one element of an activation to the next code."""
    step = fake_quantized(prepared, x)[name].unique().diff().min()

    def hook(module, inputs, output):
        moved = output.clone()
        moved.view(-1)[output.argmin()] += step
        return moved

    return hook


def test_one_code_on_the_other_side_of_a_tie_is_all_that_separates_two_outputs(deep):
    prepared, finalized, x = deep
    before = compare_finalized(prepared, finalized, x)
    assert before.is_equal_without_ties
    name = next(iter(fake_quantized(prepared, x)))
    prepared.get_submodule(f"quantizers.{name}").register_forward_hook(one_step(prepared, name, x))
    report = compare_finalized(prepared, finalized, x)
    assert report.decibels < 40, "one step of one code in 577,384 changes the whole output"
    assert 1 <= report.ties < 10
    assert report.first == name
    assert report.largest_step == 1
    assert report.is_equal_without_ties
    assert str(report).endswith("dB; with these codes put back: equal")


def test_a_weight_that_finalizing_would_change_is_no_tie(deep):
    prepared, finalized, x = deep
    stored = next(each for name, each in finalized.named_buffers() if name.endswith("weight_scale"))
    stored.mul_(1.01)
    report = compare_finalized(prepared, finalized, x)
    assert not report.is_equal_without_ties or report.ties > 100


def test_models_that_cannot_be_compared_are_refused(deep):
    prepared, finalized, x = deep
    with pytest.raises(QuantizationError, match="the finalized model has no quantizer"):
        compare_finalized(prepared, prepared, x)
    with pytest.raises(QuantizationError, match="accepted: the prepared model of graph mode"):
        compare_finalized(nn.Linear(2, 2), finalized, x)

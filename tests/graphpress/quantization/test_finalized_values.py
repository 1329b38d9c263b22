"""Value by value, a finalized model holds what its prepared model computed: weights exactly, activations to a step."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from graphpress.ir import Interpreter, from_module
from graphpress.passes.analysis.layers import layer_of
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.expressions import ConstantExpression
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.tools.edsr import load_trained
from graphpress.tools.edsr.images import calibration_images
from graphpress.tools.models import mobilenet_v2, small_resnet

torch.set_num_threads(1)
NAME = re.compile(r"(.+)_(quantize|dequantize)(?:_\d+)?")


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


def fake_quantized(prepared: fx.GraphModule, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every fake-quantized activation of a prepared model, by the name of its node."""
    found: dict[str, torch.Tensor] = {}

    class Recording(fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            if node.op == "call_module" and isinstance(self.fetch_attr(node.target), FakeQuantizeImplBase):
                found[node.name] = result
            return result

    with torch.no_grad():
        Recording(prepared).run(x)
    return found


class Following(fx.Interpreter):
    """Runs a finalized model, each layer on the activations of the prepared one.

    A tie that falls to the other side is then seen where it happens, and not again in all that is computed from it.

    Attributes:
        steps: by activation, the largest difference between the codes found and those expected.
        ties: how many codes differ, over all activations.
        errors: by activation, the largest difference between what the expected codes stand for and the activation.
    """

    def __init__(self, finalized: fx.GraphModule, expected: dict[str, torch.Tensor]):
        super().__init__(finalized)
        self.steps: dict[str, int] = {}
        self.ties = 0
        self.errors: dict[str, float] = {}
        self._expected = expected

    def run_node(self, node):
        name, kind = NAME.fullmatch(node.name).groups() if NAME.fullmatch(node.name) else ("", "")
        if name not in self._expected:
            return super().run_node(node)
        found = super().run_node(node)
        if kind == "dequantize":
            self.errors[name] = float((found - self._expected[name]).abs().max())
            return found
        _, *parameters = self.fetch_args_kwargs_from_env(node)[0]
        quantize = self.fetch_attr(node.target) if node.op == "call_module" else node.target
        wanted = quantize(self._expected[name], *parameters)
        differences = (found.int() - wanted.int()).abs()
        self.steps[name] = int(differences.max())
        self.ties += int(differences.count_nonzero())
        return wanted

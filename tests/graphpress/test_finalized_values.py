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
from graphpress.quantization.spec import default_activation_quantization_spec
from graphpress.tools.edsr import load_trained
from graphpress.tools.edsr.images import calibration_images
from graphpress.tools.models import small_resnet

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


def test_activations_are_within_one_step_where_their_quantizers_read_the_same(models):
    prepared, finalized, x = models
    expected = fake_quantized(prepared, x)
    following = Following(finalized, expected)
    with torch.no_grad():
        following.run(x)
    assert following.steps.keys() == expected.keys()
    assert len(expected) > 10
    assert max(following.steps.values()) <= 1
    assert sum(following.steps.values()) < len(expected), "one step is for ties, not for everything"
    assert max(following.errors.values()) == 0


def test_outputs_are_within_a_step_or_two_of_the_last_quantizer(models):
    """Ties that fall to the other side add up over dozens of layers: two steps with 4-bit weights, one with 8."""
    prepared, finalized, x = models
    with torch.no_grad():
        ours, theirs = prepared(x), finalized(x)
    last = [node for node in prepared.graph.nodes if "_output" in node.name and node.op == "call_module"][-1]
    quantizer = prepared.get_submodule(last.target)
    steps = 1 if quantizer.spec == default_activation_quantization_spec() else 2
    assert (ours - theirs).abs().max() <= 1.001 * steps * quantizer.qparams()[0]


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
        errors: by activation, the largest difference between what the expected codes stand for and the activation.
    """

    def __init__(self, finalized: fx.GraphModule, expected: dict[str, torch.Tensor]):
        super().__init__(finalized)
        self.steps: dict[str, int] = {}
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
        self.steps[name] = int((found.int() - wanted.int()).abs().max())
        return wanted

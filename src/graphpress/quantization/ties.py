"""Comparison of a finalized model with its prepared model, apart from values at rounding ties.

The two add in another order, so a value that lies within a rounding error of the middle between two codes may become
either of them. A deep network can amplify one such code into a difference of its whole output. The finalized model is
therefore run on the activations of the prepared one: at each quantizer, a code that fell to the other side is counted
and put back before the next layer reads it. What is left is made by the layers themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, fx, nn

from graphpress.backends.comparison import tensors_in
from graphpress.ir.torch.arguments import Arguments
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.refinement.outputs import decibels

_PART = re.compile(r"(.+)_(quantize|dequantize)(?:_\d+)?")


@frozen
class TieReport:
    """The differences of a finalized model from its prepared model on one input.

    Attributes:
        activations: the number of quantized activations compared.
        values: the number of their elements.
        ties: the elements that have another code, computed from the same activations.
        first: the first activation with such an element; None without any.
        largest_step: the largest distance of two such codes; at ties it is 1.
        decibels: signal to noise of the finalized model's outputs, with the prepared model's as the signal; infinite if
            they are equal.
        is_equal_without_ties: True if the outputs are equal bit for bit with the ties put back.
    """

    activations: int
    values: int
    ties: int
    first: str | None
    largest_step: int
    decibels: float
    is_equal_without_ties: bool

    def __str__(self) -> str:
        found = f"{self.ties} of {self.values} codes differ, by at most {self.largest_step}"
        where = f", first in {self.first}" if self.first is not None else ""
        with_ties = f"outputs: {self.decibels:.1f} dB; with these codes put back: "
        return f"{found}{where}; {with_ties}{'equal' if self.is_equal_without_ties else 'not equal'}"


def compare_finalized(prepared: nn.Module, finalized: nn.Module, inputs: Any) -> TieReport:
    """Compare a finalized model with the prepared one it was made from, layer by layer on the same activations.

    Args:
        prepared: the prepared model, of graph mode, in eval mode.
        finalized: the result of `finalize` for Core AI.
        inputs: one tensor, a tuple of the arguments, or a dict by name.

    Raises:
        QuantizationError: for other models.
    """
    if not isinstance(prepared, fx.GraphModule) or not isinstance(finalized, fx.GraphModule):
        raise QuantizationError("accepted: the prepared model of graph mode, and its finalized model for Core AI")
    arguments = Arguments.of(inputs).bound_to(prepared.forward)
    with torch.no_grad():
        recorded = Recorded(prepared)
        expected = recorded.run_on(arguments)
        following = Following(finalized, recorded.activations)
        outputs = following.run_on(arguments)
        found = tensors_in(arguments.call(finalized))
    missing = recorded.activations.keys() - following.steps.keys()
    if missing or not recorded.activations:
        raise QuantizationError(
            f"the finalized model has no quantizer {min(missing)!r}" if missing else "the model has no quantizers"
        )
    return TieReport(
        len(following.steps),
        sum(each.numel() for each in recorded.activations.values()),
        following.ties,
        next((name for name, step in following.steps.items() if step), None),
        max(following.steps.values()),
        _decibels(found, expected),
        all(map(torch.equal, outputs, expected)) and not any(following.errors.values()),
    )


def _decibels(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True)]
    noise = math.fsum(float((a - b).square().sum()) for a, b in pairs)
    signal = math.fsum(float(b.square().sum()) for _, b in pairs)
    return decibels(noise / signal if signal else math.inf if noise else 0.0)


class _OnArguments(fx.Interpreter):
    """An interpreter that is run on the arguments of a call."""

    def run_on(self, arguments: Arguments) -> list[Tensor]:
        """Run the module on the arguments, and return the tensors of its outputs."""
        return tensors_in(self.run(*arguments.leaves, enable_io_processing=False))


class Recorded(_OnArguments):
    """Runs a prepared model, and records its fake-quantized activations.

    Attributes:
        activations: by the name of the node.
    """

    def __init__(self, prepared: fx.GraphModule):
        super().__init__(prepared)
        self.activations: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and note what a fake-quantizer gives."""
        result = super().run_node(n)
        if n.op == "call_module" and isinstance(self.fetch_attr(str(n.target)), FakeQuantizeImplBase):
            self.activations[n.name] = result
        return result


class Following(_OnArguments):
    """Runs a finalized model, each layer on the activations of the prepared one.

    A tie that falls to the other side is then seen where it happens, and not again in all that is computed from it.

    Attributes:
        steps: by activation, the largest difference between the codes found and those expected.
        ties: how many codes differ, over all activations.
        errors: by activation, the largest difference between what the expected codes represent and the activation.
    """

    def __init__(self, finalized: fx.GraphModule, expected: Mapping[str, Tensor]):
        super().__init__(finalized)
        self.steps: dict[str, int] = {}
        self.ties = 0
        self.errors: dict[str, float] = {}
        self._expected = expected

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; a quantizer returns the codes of the prepared model's activation."""
        match = _PART.fullmatch(n.name)
        name, kind = match.groups() if match else ("", "")
        found = super().run_node(n)
        if name not in self._expected:
            return found
        if kind == "dequantize":
            self.errors[name] = _largest((found - self._expected[name]).abs())
            return found
        _, *parameters = self.fetch_args_kwargs_from_env(n)[0]
        quantize: Any = self.fetch_attr(str(n.target)) if n.op == "call_module" else n.target
        wanted = quantize(self._expected[name], *parameters)
        differences = (found.int() - wanted.int()).abs()
        self.steps[name] = int(_largest(differences))
        self.ties += int(differences.count_nonzero())
        return wanted


def _largest(differences: Tensor) -> float:
    return float(differences.max()) if differences.numel() else 0.0

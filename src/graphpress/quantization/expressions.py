"""Constant expressions of a prepared model, such as fake-quantized weights.

A constant expression depends on parameters and buffers only. In training it runs in every step; in eval mode its result
is cached until a parameter changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from graphpress.modules.expressions import Step, compute
from graphpress.modules.remembering import Remembered
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


@frozen
class QuantizedStep(Step):
    """A step of a constant expression: an op, or a fake-quantizer by its index in `ConstantExpression.quantizers`."""

    quantizer: int | None = None


class ConstantExpression(nn.Module):
    """Computes a value from parameters and buffers of the model, which are the arguments."""

    def __init__(self, steps: Sequence[QuantizedStep], quantizers: Sequence[FakeQuantizeImplBase] = ()):
        super().__init__()
        self.steps = tuple(steps)
        self.quantizers = nn.ModuleList(quantizers)
        self._value = Remembered[Tensor]()

    def forward(self, *arguments: Tensor) -> Tensor:
        """Return the value for these arguments."""
        differentiable = torch.is_grad_enabled() and any(a.requires_grad for a in arguments)
        if self.training or differentiable:
            return self.compute(*arguments)
        # The observed value is a constant, so one observation suffices.
        switches = tuple((q.observer_enabled, q.fake_quant_enabled) for q in self._quantizers())
        reads = (*arguments, *self.parameters(), *self.buffers())  # the quantizers' own, such as learned scales
        return self._value.get(reads, lambda: self.compute(*arguments), switches)

    def compute(self, *arguments: Tensor) -> Tensor:
        """Compute the value without the cache; without steps, it is the argument."""
        return compute(self.steps, arguments, self._run)

    def _run(self, step: QuantizedStep, operands: dict[str, Any]) -> Tensor:
        if step.quantizer is None:
            return step.run(operands)
        quantized: Tensor = self.quantizers[step.quantizer](operands["input"])
        return quantized

    @property
    def is_traceable(self) -> bool:
        """True if torch can compile it; see `FakeQuantizeImplBase.is_traceable`."""
        return all(quantizer.is_traceable for quantizer in self._quantizers())

    def _quantizers(self) -> Sequence[FakeQuantizeImplBase]:
        return list(self.quantizers)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Clear the cached result."""
        self._value.forget()

    def _apply(self, *args: Any, **kwargs: Any) -> ConstantExpression:
        self.forget()
        super()._apply(*args, **kwargs)
        return self

    def extra_repr(self) -> str:
        """Return the ops, in order."""
        return " -> ".join(step.op.short_name for step in self.steps)


def forget_results(model: nn.Module) -> None:
    """Clear the cached results of the constant expressions of `model`."""
    for module in model.modules():
        if isinstance(module, ConstantExpression):
            module.forget()

"""Constant expressions of a prepared model: what it computes from its own parameters, such as a fake-quantized weight.

In training the expression runs at every step; in evaluation its result is kept until a parameter changes, so that a
prepared model does no work for its weights twice.
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
    """A step of a prepared model: an op, or a fake-quantizer by its index in `ConstantExpression.quantizers`."""

    quantizer: int | None = None


class ConstantExpression(nn.Module):
    """Computes a value from parameters and buffers of the model, which are its arguments."""

    def __init__(self, steps: Sequence[QuantizedStep], quantizers: Sequence[FakeQuantizeImplBase] = ()):
        super().__init__()
        self.steps = tuple(steps)
        self.quantizers = nn.ModuleList(quantizers)
        self._value = Remembered[Tensor]()

    def forward(self, *arguments: Tensor) -> Tensor:
        """The value for these arguments."""
        differentiable = torch.is_grad_enabled() and any(a.requires_grad for a in arguments)
        if self.training or differentiable:
            return self.compute(*arguments)
        # What is observed is a constant here: once is as good as at every step.
        switches = tuple((q.observer_enabled, q.fake_quant_enabled) for q in self._quantizers())
        reads = (*arguments, *self.parameters(), *self.buffers())  # those of the quantizers: scales that are learned
        return self._value.get(reads, lambda: self.compute(*arguments), switches)

    def compute(self, *arguments: Tensor) -> Tensor:
        """The value, computed anew; an expression without steps is its argument."""
        return compute(self.steps, arguments, self._run)

    def _run(self, step: QuantizedStep, operands: dict[str, Tensor]) -> Tensor:
        if step.quantizer is None:
            return step.run(operands)
        quantized: Tensor = self.quantizers[step.quantizer](operands["input"])
        return quantized

    @property
    def is_traceable(self) -> bool:
        """Whether torch can compile it; see `FakeQuantizeImplBase.is_traceable`."""
        return all(quantizer.is_traceable for quantizer in self._quantizers())

    def _quantizers(self) -> Sequence[FakeQuantizeImplBase]:
        return list(self.quantizers)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Drop the result that is kept."""
        self._value.forget()

    def _apply(self, *args: Any, **kwargs: Any) -> ConstantExpression:
        self.forget()
        super()._apply(*args, **kwargs)
        return self

    def extra_repr(self) -> str:
        """The ops, in order."""
        return " -> ".join(step.op.short_name for step in self.steps)


def forget_results(model: nn.Module) -> None:
    """Drop what the constant expressions of `model` keep; each is computed again when it is next read."""
    for module in model.modules():
        if isinstance(module, ConstantExpression):
            module.forget()

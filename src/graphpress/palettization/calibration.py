"""Measure how much each weight matters: squared gradients of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graphpress.ir.errors import GraphpressError
from graphpress.palettization.forms import fake_forms
from graphpress.palettization.sensitivities import Sensitivities


class CalibrationError(GraphpressError, RuntimeError):
    """A calibration step from which no gradient reaches the weights."""


class SensitivityCalibration:
    """Accumulates squared gradients of palettized weights.

    Attributes:
        steps: how many steps were taken.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor]):
        self.steps = 0
        self._forms = fake_forms(model)
        self._loss_fn = loss_fn
        self._parameters: dict[int, tuple[str, Tensor]] = {}
        for path, module, form in self._forms:
            parameter = module._parameters[form.name]
            assert parameter is not None
            self._parameters.setdefault(id(parameter), (form.qualified_name(path), parameter))
        self._sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in self._named()}

    def step(self, output: Any, target: Any) -> Tensor:
        """Take the gradient of ``loss_fn(output, target)`` into account and return the loss, detached.

        No `.grad` is written.

        Raises:
            CalibrationError: when the output does not depend on any palettized weight, or was computed without
                gradients.
        """
        loss = self._loss_fn(output, target)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise CalibrationError(
                "the loss has no gradient: run the prepared model inside calibration_mode and outside torch.no_grad()"
            )
        named = self._named()
        gradients = torch.autograd.grad(loss.sum(), [parameter for _, parameter in named], allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise CalibrationError("the loss depends on no palettized weight: compute it from the prepared model")
        for (name, _), gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                self._sums[name] += gradient.detach().float().square()
        self.steps += 1
        return loss.detach()

    def sensitivities(self) -> Sensitivities:
        """The mean over the steps."""
        count = max(self.steps, 1)
        return Sensitivities({name: (total / count).cpu() for name, total in self._sums.items()})

    @contextmanager
    def float_weights(self) -> Iterator[None]:
        """Let the float weights through, with gradients, then put everything back."""
        forms = [form for _, _, form in self._forms]
        enabled = [form.enabled for form in forms]
        parameters = [parameter for _, parameter in self._named()]
        required = [parameter.requires_grad for parameter in parameters]
        try:
            for form in forms:
                form.enabled = False
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield
        finally:
            for form, was in zip(forms, enabled, strict=True):
                form.enabled = was
            for parameter, was in zip(parameters, required, strict=True):
                parameter.requires_grad_(was)

    def _named(self) -> list[tuple[str, Tensor]]:
        return list(self._parameters.values())

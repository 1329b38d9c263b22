"""The interface of the two execution modes, and the checks of calibration before ranges become final."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from graphpress.export_backend import ExportBackend
from graphpress.passes.config import QuantizerConfig, SkippedWeight
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization.calculators import StatefulQParamsCalculatorBase, StatelessQParamsCalculatorBase
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


class UncalibratedWarning(UserWarning):
    """Quantizers that saw no data when the model was finalized."""


class NonFiniteCalibrationWarning(UserWarning):
    """Calibration data with NaN or infinite values, which no range was made from."""


def warn_about_calibration(quantizers: Iterable[FakeQuantizeImplBase]) -> None:
    """Warn, two frames up, of what `quantizers` saw before their ranges become final."""
    stateful = [
        (quantizer.name, calculator)
        for quantizer in quantizers
        if isinstance(calculator := quantizer.calculator, StatefulQParamsCalculatorBase)
        and None in quantizer.spec.float_range
    ]
    seen_once = [name for name, calculator in stateful if int(calculator.observations) <= 1]
    if seen_once:
        warnings.warn(
            f"{len(seen_once)} quantizers saw only the example given to prepare(): {_shown(seen_once)}; run data "
            "through the prepared model inside calibration_mode() before finalize()",
            UncalibratedWarning,
            stacklevel=3,
        )
    skipped = [name for name, calculator in stateful if int(calculator.skipped)]
    if skipped:
        most = max(int(calculator.skipped) for _, calculator in stateful)
        warnings.warn(
            f"{len(skipped)} quantizers left out up to {most} calibration tensors that were not finite (NaN or "
            f"infinite): {_shown(skipped)}",
            NonFiniteCalibrationWarning,
            stacklevel=3,
        )


def refuse_dynamic(quantizers: Iterable[FakeQuantizeImplBase]) -> None:
    """Refuse activations whose parameters are computed at every run: no backend stores that.

    Raises:
        QuantizationError: naming them.
    """
    dynamic = [
        quantizer.name
        for quantizer in quantizers
        if not quantizer.is_state and isinstance(quantizer.calculator, StatelessQParamsCalculatorBase)
    ]
    if dynamic:
        raise QuantizationError(
            f"the activations {_shown(dynamic)} have a calculator that computes parameters at every run, such as "
            "'dynamic'; a finalized model has fixed ones; accepted there: 'moving_average', 'global_minmax', 'static', "
            "'histogram', 'percentile', or a calculator with a state of its own"
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class Execution(ABC):
    """Base of the execution modes. One is made for each quantizer, and keeps what `finalize` needs from `prepare`.

    Calibration, training and the switches are the same in all modes, because they act on the `FakeQuantizeImplBase`
    modules that the prepared model holds as submodules.

    Args:
        config: what is quantized and how.

    Attributes:
        skipped_weights: what `prepare` skipped of what the config means.
    """

    def __init__(self, config: QuantizerConfig):
        self.config = config
        self.skipped_weights: tuple[SkippedWeight, ...] = ()

    @abstractmethod
    def prepare(
        self,
        model: nn.Module,
        example_inputs: Any,
        dynamic_shapes: Any,
        *,
        no_grad: bool,
        copy: bool,
        leave_indivisible: bool,
    ) -> nn.Module:
        """The prepared model, in eval mode, every quantizer a submodule. Arguments are those of `Quantizer.prepare`.

        The quantizers have observed nothing yet.
        """

    def calibrating(self, prepared: nn.Module) -> AbstractContextManager[None]:
        """A context around calibration: what the mode learns from the data beside ranges, it learns on leaving."""
        return nullcontext()

    @abstractmethod
    def finalize(self, prepared: nn.Module, backend: ExportBackend, mmap_dir: str | None) -> nn.Module:
        """The form of `prepared`, which stays as it is, that `backend` converts."""

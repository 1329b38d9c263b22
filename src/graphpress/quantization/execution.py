"""The interface of the execution modes, and checks of the calibration before finalization."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from graphpress.export_backend import ExportBackend
from graphpress.ir.torch.arguments import Arguments
from graphpress.passes.config import QuantizerConfig, SkippedWeight
from graphpress.passes.weights.errors import QuantizationError
from graphpress.programs import Model
from graphpress.quantization.calculators import StatefulQParamsCalculatorBase, StatelessQParamsCalculatorBase
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


class UncalibratedWarning(UserWarning):
    """Quantizers were finalized without calibration data."""


class NonFiniteCalibrationWarning(UserWarning):
    """Calibration data with NaN or infinite values was ignored."""


def warn_about_calibration(quantizers: Iterable[FakeQuantizeImplBase]) -> None:
    """Warn, two frames up, about `quantizers` with missing or non-finite calibration data."""
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
    """Reject activations whose parameters are computed in every run, which no backend supports.

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
    """Base of the execution modes; each instance belongs to one quantizer and keeps state from `prepare` to `finalize`.

    Calibration, training and the switches are common to all modes, because they act on the `FakeQuantizeImplBase`
    submodules of the prepared model.

    Args:
        config: the config.

    Attributes:
        skipped_weights: the weights that the config selects but `prepare` did not quantize.
    """

    def __init__(self, config: QuantizerConfig):
        self.config = config
        self.skipped_weights: tuple[SkippedWeight, ...] = ()

    @abstractmethod
    def prepare(
        self,
        model: Model,
        arguments: Arguments,
        dynamic_shapes: Any,
        *,
        no_grad: bool,
        strict: bool,
        copy: bool | None,
        leave_indivisible: bool | None,
    ) -> nn.Module:
        """Return the prepared model in eval mode, with uncalibrated quantizers as submodules.

        The options are those of `Quantizer.prepare`.
        """

    def calibrating(
        self, prepared: nn.Module, progress: Callable[[int, int], None] | None
    ) -> AbstractContextManager[None]:
        """Return a context for calibration; on exit, the mode computes results beyond ranges from the data.

        `progress` is called with the number of steps done and their total.
        """
        return nullcontext()

    def run_example(self, prepared: nn.Module, arguments: Arguments, name: str) -> None:
        """Run the prepared model, which errors call `name`, once, so that every quantizer sees its value.

        Raises:
            QuantizationError: if the run fails.
        """
        arguments.run(prepared, name, QuantizationError)

    @abstractmethod
    def finalize(self, prepared: nn.Module, backend: ExportBackend, mmap_dir: str | None) -> nn.Module:
        """Return the form of `prepared` that `backend` converts; `prepared` is not changed."""

"""What is wrong with the ranges of quantizers before they become final: too little data, none, none to keep."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from graphpress.passes.quantization.errors import QuantizationError
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

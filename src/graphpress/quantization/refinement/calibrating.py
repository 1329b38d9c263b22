"""What `calibration_mode` does beside observing, where the config asks for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import fx

from graphpress.passes.configs import QuantizerConfig
from graphpress.quantization.calibration_report import UncalibratedWarning
from graphpress.quantization.refinement.layers import correction_buffers
from graphpress.quantization.refinement.recording import recorded
from graphpress.quantization.refinement.refine import (
    MEMORY,
    Refinement,
    correct_biases_without_data,
    kept,
    refine,
)
from graphpress.quantization.switching import quantizers_of


class CalibrationMemoryWarning(UserWarning):
    """Calibration batches that were observed but not kept for choosing codes and correcting biases."""


@contextmanager
def refined_after(
    module: fx.GraphModule, config: QuantizerConfig, done: Callable[[Refinement], None], memory: int = MEMORY
) -> Iterator[None]:
    """Keep the inputs that `module` is run on inside; on leaving, choose codes and correct biases from them.

    Inside, what was learned before is off, so that the model is the float model. It comes back when no data was run,
    and after an exception. `done` is told what was done.
    """
    with kept(module) as restore:
        with recorded(module, memory) as inputs:
            yield
        if inputs.left_out:
            warnings.warn(
                f"{inputs.left_out} calibration batches were observed but not used to choose codes or correct biases: "
                f"the {len(inputs.batches)} before them take {memory >> 20} MB",
                CalibrationMemoryWarning,
                stacklevel=4,
            )
        if not inputs.batches:
            restore()
            return
        with torch.no_grad():
            done(refine(module, inputs.batches, config, memory))


@contextmanager
def uncorrected_inside(module: fx.GraphModule) -> Iterator[None]:
    """Let `module` be the float model inside, and correct its biases without data again on leaving."""
    with kept(module):
        yield
        with torch.no_grad():
            correct_biases_without_data(module)


def warn_when_unrefined(module: fx.GraphModule, config: QuantizerConfig) -> None:
    """Warn, three frames up, that what the config asks for never had data."""
    if not config.learns_from_calibration:
        return
    offsets = any(quantizer.code_offset is not None for quantizer in quantizers_of(module))
    if not offsets and not any(bool(buffer.any()) for buffer in correction_buffers(module)):
        warnings.warn(
            f"weight_rounding {config.weight_rounding.type_name!r} and bias_correction {config.bias_correction.value!r}"
            " had no data: weights are rounded to nearest; run data through the prepared model inside"
            " calibration_mode() before finalize()",
            UncalibratedWarning,
            stacklevel=4,
        )

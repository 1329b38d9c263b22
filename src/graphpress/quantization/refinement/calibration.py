"""Recording of calibration inputs for weight rounding and bias correction."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphpress.passes.config import BiasCorrection, QuantizerConfig
from graphpress.quantization.execution import UncalibratedWarning
from graphpress.quantization.refinement.layers import correction_buffers
from graphpress.quantization.refinement.refine import (
    MEMORY,
    Progress,
    Refinement,
    correct_biases_without_data,
    kept,
    refine,
)
from graphpress.quantization.refinement.running import Inputs
from graphpress.quantization.refinement.selection import select
from graphpress.quantization.smoothing import SmoothedLayers
from graphpress.quantization.switches import quantizers_of


@define(eq=False)
class RecordedInputs:
    """Copies of call arguments, up to `memory` bytes; `left_out` counts the calls that were not kept."""

    memory: int
    batches: list[Inputs] = field(factory=list)
    left_out: int = 0
    _bytes: int = 0

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep one call, if memory allows; the first is always kept."""
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        if self.left_out or (self.batches and self._bytes + size > self.memory):
            self.left_out += 1
            return
        self._bytes += size
        self.batches.append(pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.detach().clone(), (args, kwargs)))


@contextmanager
def recorded(module: nn.Module, memory: int) -> Iterator[RecordedInputs]:
    """Record the arguments of calls of `module` inside the context."""
    inputs = RecordedInputs(memory)

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.add(args, kwargs)

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield inputs
    finally:
        handle.remove()


class CalibrationMemoryWarning(UserWarning):
    """Calibration batches were observed but not kept for weight rounding, bias correction and smoothing."""


@contextmanager
def refined_after(
    module: fx.GraphModule,
    config: QuantizerConfig,
    smoothed: SmoothedLayers,
    done: Callable[[Refinement], None],
    progress: Progress | None = None,
    memory: int = MEMORY,
) -> Iterator[None]:
    """Record the inputs of `module` inside the context; on exit, choose codes and correct biases from them.

    Inside, earlier results are disabled, so that the model is the float model. They are restored if no data was run,
    and after an exception. Layers are smoothed first. `done` is called with the new results, and `progress` as by
    `select`.
    """
    with smoothed.unsmoothed() as restore_factors, kept(module) as restore:
        with recorded(module, memory) as inputs:
            yield
        if inputs.left_out:
            warnings.warn(
                f"{inputs.left_out} calibration batches were observed but not used to choose codes, correct biases or "
                f"smooth layers: the {len(inputs.batches)} before them take {memory >> 20} MB",
                CalibrationMemoryWarning,
                stacklevel=4,
            )
        if not inputs.batches:
            restore()
            restore_factors()
            return
        with torch.no_grad():
            if config.selection is not None:
                done(select(module, inputs.batches, config, smoothed, memory, progress))
                return
            if smoothed.places:
                smoothed.smooth(inputs.batches, smoothed.magnitudes(inputs.batches), smoothed.strength)
            if config.refines_weights or config.bias_correction is not BiasCorrection.NONE:
                done(refine(module, inputs.batches, config, memory, progress))


@contextmanager
def uncorrected_inside(module: fx.GraphModule) -> Iterator[None]:
    """Disable bias corrections inside the context; on exit, compute them again without data."""
    with kept(module):
        yield
        with torch.no_grad():
            correct_biases_without_data(module)


def warn_when_unrefined(module: fx.GraphModule, config: QuantizerConfig) -> None:
    """Warn, three frames up, that the weight rounding or bias correction of the config had no data."""
    if not config.refines_weights:
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

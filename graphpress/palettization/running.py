"""Run a model on example inputs without a trace of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphpress.compressor import mode_restored
from graphpress.passes.palettization import PalettizationError

Inputs = Tensor | Sequence[Any] | Mapping[str, Any] | None
"""A tensor, the positional arguments, or the arguments by name."""


def run_model(model: nn.Module, inputs: Inputs) -> None:
    """Run `model` once in eval mode; buffers, modes and torch's random numbers are then as before.

    Raises:
        PalettizationError: when it does not run.
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    args = () if isinstance(inputs, Mapping) else (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(args, tuple | list):
        args = (args,)
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with mode_restored(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            for module in model.modules():
                module.training = False
            model(*args, **named)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise PalettizationError(
            f"{type(model).__name__} does not run on the example inputs: {type(error).__name__}: {reason}"
        ) from error
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)

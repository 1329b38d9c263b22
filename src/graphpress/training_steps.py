"""The counter of training steps that a prepared model carries."""

from __future__ import annotations

import torch
from torch import nn

_STEPS = "_training_steps"


class UnusedScheduleWarning(UserWarning):
    """A config has schedules, but nobody counts the steps of training."""


def count_from_zero(prepared: nn.Module) -> None:
    """Give `prepared` the counter of its training steps: a buffer, so that its `state_dict` carries it."""
    prepared.register_buffer(_STEPS, torch.zeros((), dtype=torch.long))


def steps_of(prepared: nn.Module) -> int:
    """How many steps of training `prepared` has counted."""
    return int(prepared.get_buffer(_STEPS))


def count_step(prepared: nn.Module) -> int:
    """Count one step; the number of steps is returned."""
    prepared.get_buffer(_STEPS).add_(1)
    return steps_of(prepared)


def stop_counting(finalized: nn.Module) -> None:
    """Take the counter off a module that is not trained any more."""
    finalized._buffers.pop(_STEPS, None)

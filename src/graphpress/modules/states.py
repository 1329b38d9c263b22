"""States of a model: buffers that it changes in eval mode, such as caches and running sums.

Runs on example or calibration data end with the states restored, and a finalized model starts from the values that they
had when the model was prepared. What changes in training only, such as the running statistics of batch norms, is no
state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graphpress.ir.tensors import lazy_copy

_INITIAL = "_graphpress_initial_states"


@contextmanager
def states_restored(model: nn.Module, others: Collection[int] = ()) -> Iterator[None]:
    """Restore, on exit, the buffers that a run in eval mode changes, and remember their values as the initial ones.

    Args:
        model: the model.
        others: the ``id`` of buffers that are no part of the user's model and keep their changes.
    """
    kept = [
        (module, name, buffer, _version(buffer), lazy_copy(buffer))
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and id(buffer) not in others
    ]
    try:
        yield
    finally:
        for module, name, buffer, version, values in kept:
            if module._buffers.get(name) is buffer and _version(buffer) == version and _is_same(buffer, values):
                continue
            module.__dict__.setdefault(_INITIAL, {}).setdefault(name, values)
            with torch.no_grad():
                buffer.detach_().copy_(values)
            module._buffers[name] = buffer


def set_initial_states(model: nn.Module) -> None:
    """Set the states of a finalized `model` to the values that they had when it was prepared."""
    for module in model.modules():
        for name, values in module.__dict__.pop(_INITIAL, {}).items():
            module._buffers[name] = values.clone()


def _version(buffer: Tensor) -> int:
    return -1 if buffer.is_inference() else buffer._version


def _is_same(buffer: Tensor, values: Tensor) -> bool:
    """Compare buffers without a version counter by their elements."""
    return not buffer.is_inference() or torch.equal(buffer, values)

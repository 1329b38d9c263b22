"""Who watches the torch functions that a thread calls, and how to call some without being seen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Watching(threading.local):
    """The observers of a thread, innermost last."""

    def __init__(self) -> None:
        self.observers: list[Any] = []


watching = _Watching()

_PARAMETER = "_graphpress_parameter"


def computed_parameter(compute: Callable[[nn.Module], Tensor], module: nn.Module) -> Tensor:
    """What `compute` makes of `module`, unseen by observers, who are told that it stands for a parameter."""
    if not watching.observers or torch.compiler.is_dynamo_compiling():
        return compute(module)
    with torch._C.DisableTorchFunction():
        tensor = compute(module)
        setattr(tensor, _PARAMETER, True)
    return tensor


def is_state(tensor: Tensor) -> bool:
    """True for a parameter, and for a tensor that came from `computed_parameter` while somebody watched."""
    return isinstance(tensor, nn.Parameter) or getattr(tensor, _PARAMETER, False)

"""Convolutions that are summed exactly and rounded once, so that the order of additions plays no part.

Where a convolution's result is quantized next, a last bit can become a whole step; two programs that mean the same
are compared without that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


class ExactConvolutions(TorchDispatchMode):
    """A mode under which convolutions of floats accumulate in float64 and round once; the bias is added afterwards."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.convolution.default or not args[0].is_floating_point():
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            return exact_convolution(*args, **(kwargs or {}))


def exact_convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *settings: Any) -> torch.Tensor:
    """``aten.convolution``, its sums rounded once to the dtype of `x`."""
    exact: torch.Tensor = torch.ops.aten.convolution(x.double(), weight.double(), None, *settings).to(x.dtype)
    return exact if bias is None else exact + bias.reshape(-1, *[1] * (x.dim() - 2))

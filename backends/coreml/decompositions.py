"""ATen ops that coremltools lacks, or computes otherwise than torch, in ones that it computes alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from graphpress.backends.moments import deviation, variance

aten = torch.ops.aten


def _gelu(x: torch.Tensor, approximate: str = "none") -> Any:
    """The approximation by tanh, spelled out: coremltools does not see it in the gelu of an exported program."""
    if approximate == "none":
        return NotImplemented
    return x * (0.5 * (torch.tanh(((0.044715 * x**3) + x) * (2 / math.pi) ** 0.5) + 1))


def _reciprocal(x: torch.Tensor) -> Any:
    """A quotient: the inverse of an ML program is that of a number 1e-4 larger."""
    return torch.full((), 1.0, dtype=x.dtype) / x if x.is_floating_point() else NotImplemented


def _max_pool(pool: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """With the stride in place, which is the kernel's size when there is none: coremltools wants it given."""

    def pooled(x: torch.Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (), *rest: Any) -> Any:
        return NotImplemented if stride else pool(x, kernel_size, kernel_size, *rest)

    return pooled


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.gelu.default: _gelu,
    aten.reciprocal.default: _reciprocal,
    aten.var.correction: variance,  # coremltools forgets the correction where no axes are given
    aten.std.correction: deviation,
    aten.max_pool1d.default: _max_pool(aten.max_pool1d.default),
    aten.max_pool2d.default: _max_pool(aten.max_pool2d.default),
    aten.max_pool3d.default: _max_pool(aten.max_pool3d.default),
}

"""Variances spelled out, for converters that lack them or compute them otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def variance(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> torch.Tensor:
    """``aten.var.correction``: squares about the mean over the number of elements less `correction` (one if None)."""
    axes = list(range(x.dim())) if not dim else [axis % x.dim() for axis in dim]
    count = math.prod(x.shape[axis] for axis in axes)
    centered = x - x.mean(axes, keepdim=True)
    return (centered * centered).sum(axes, keepdim=keepdim) / (count - (1 if correction is None else correction))


def deviation(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> torch.Tensor:
    """``aten.std.correction``."""
    return variance(x, dim, correction=correction, keepdim=keepdim).sqrt()


def variance_and_mean(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """``aten.var_mean.correction``."""
    axes = list(range(x.dim())) if not dim else list(dim)
    return variance(x, dim, correction=correction, keepdim=keepdim), x.mean(axes, keepdim=keepdim)


def deviation_and_mean(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """``aten.std_mean.correction``."""
    var, mean = variance_and_mean(x, dim, correction=correction, keepdim=keepdim)
    return var.sqrt(), mean

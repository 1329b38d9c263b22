"""Elementwise ops that converters lack, in ones that they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten


def _fmax(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The larger one; where one is no number, the other."""
    return torch.where(a != a, b, torch.where(b != b, a, torch.maximum(a, b)))


def _fmin(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(a != a, b, torch.where(b != b, a, torch.minimum(a, b)))


def _hypot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """With the larger one taken out, whose square may be no number."""
    larger, smaller = torch.maximum(a.abs(), b.abs()), torch.minimum(a.abs(), b.abs())
    ratio = smaller / torch.where(larger == 0, torch.ones_like(larger), larger)
    return larger * torch.sqrt(1 + ratio * ratio)


def _logaddexp(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    distance = torch.where(a == b, torch.zeros_like(a), (a - b).abs())  # equal infinities are at no distance
    return torch.maximum(a, b) + torch.log1p(torch.exp(-distance))


ELEMENTARY: Mapping[Any, Callable[..., Any]] = {
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    aten.hypot.default: _hypot,
    aten.logaddexp.default: _logaddexp,
    aten.isnan.default: lambda x: x != x,
}

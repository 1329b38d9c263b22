"""Views by strides and products of three, which no converter has, as picks by index and products of two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten


def _diagonal(x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """``aten.diagonal``: elements ``start + i * (columns + 1)`` of the two axes taken as one, the last."""
    rows_first = torch.movedim(x, (dim1, dim2), (-2, -1))
    rows, columns = rows_first.shape[-2:]
    length = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    start = offset if offset >= 0 else -offset * columns
    places = torch.arange(length, device=x.device) * (columns + 1) + start
    return rows_first.flatten(-2).index_select(-1, places)


def _unfold(x: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """``aten.unfold``: windows along an axis, their elements along a new last one."""
    axis = dimension % x.dim()
    count = (x.shape[axis] - size) // step + 1
    places = torch.arange(count, device=x.device).reshape(-1, 1) * step + torch.arange(size, device=x.device)
    windows = x.index_select(axis, places.flatten())
    return windows.reshape([*x.shape[:axis], count, size, *x.shape[axis + 1 :]]).movedim(axis + 1, -1)


def _bilinear(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``aten.bilinear``: ``a @ weight[o] @ b`` for each output `o`, by one product with all of the weight."""
    outputs, inner, other = weight.shape
    halves = torch.matmul(a, weight.permute(1, 0, 2).reshape(inner, outputs * other))
    result = (halves.reshape([*a.shape[:-1], outputs, other]) * b.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


REARRANGING: Mapping[Any, Callable[..., Any]] = {
    aten.bilinear.default: _bilinear,
    aten.diagonal.default: _diagonal,
    aten.unfold.default: _unfold,
}

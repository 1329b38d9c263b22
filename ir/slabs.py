"""Slabs of large tensors: computations by element or block go through them one by one and stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

ELEMENTS = 1 << 17
"""Elements of a slab, of which a computation holds several copies in float32."""

Slab = tuple[Tensor, list[Any]]
"""Some rows of the data, and the parameters for them: each a tensor, or None as it was passed."""


def slabs(data: Tensor, *parameters: Tensor | None, block_rows: int = 1) -> Iterator[Slab]:
    """Yield consecutive slabs of `data` along axis 0, each with the entries of `parameters` that apply to it.

    Tensors that are small, traced or on a device are one slab.

    Args:
        data: the data.
        parameters: each None, 0-d, or of the rank of `data` with one entry per block; their blocks are not cut.
        block_rows: the size along axis 0 of further blocks that are not cut.
    """
    rows = _rows(data, parameters, block_rows)
    if rows is None:
        yield data, list(parameters)
        return
    total = data.shape[0]
    for start in range(0, total, rows):
        stop = min(start + rows, total)
        yield data[start:stop], [_part(each, start, stop, total) for each in parameters]


def _rows(data: Tensor, parameters: tuple[Tensor | None, ...], block_rows: int) -> int | None:
    """Return the rows of a slab, or None for all."""
    is_plain = type(data) in (Tensor, nn.Parameter) and data.device.type == "cpu"
    if not is_plain or data.ndim == 0 or data.numel() <= 2 * ELEMENTS or torch.compiler.is_compiling():
        return None
    total = data.shape[0]
    counts = [each.shape[0] for each in parameters if each is not None and each.ndim]
    whole = math.lcm(block_rows, *(total // count for count in counts if count > 1))
    wanted = max(1, ELEMENTS * total // data.numel())
    rows = -(-wanted // whole) * whole
    return rows if rows < total else None


def _part(parameter: Tensor | None, start: int, stop: int, total: int) -> Tensor | None:
    if parameter is None or parameter.ndim == 0 or parameter.shape[0] == 1:
        return parameter
    size = total // parameter.shape[0]
    return parameter[start // size : stop // size]

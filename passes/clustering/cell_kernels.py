"""Kernels that order vectors by the cells they lie in."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import kernel


@kernel
def interleave(cells: np.ndarray, axis: int, axes: int, codes: np.ndarray) -> None:
    """Put bit i of `cells`, uint8 [n], at bit ``i * axes + axis`` of `codes`, uint32 [n]."""
    spread = np.zeros(256, np.uint32)
    for cell in range(256):
        for bit in range(8):
            if (cell >> bit) & 1 and bit * axes + axis < 32:
                spread[cell] |= np.uint32(1) << np.uint32(bit * axes + axis)
    for place in range(cells.size):
        codes[place] |= spread[cells[place]]


@kernel
def counted_order(codes: np.ndarray, limit: int) -> np.ndarray:
    """Return the stable order, int32 [n], in which `codes`, uint32 [n] below `limit`, ascend."""
    starts = np.zeros(limit, np.int32)
    for place in range(codes.size):
        starts[codes[place]] += 1
    start = np.int32(0)
    for code in range(limit):
        count = starts[code]
        starts[code] = start
        start += count
    order = np.empty(codes.size, np.int32)
    for place in range(codes.size):
        position = starts[codes[place]]
        starts[codes[place]] = position + np.int32(1)
        order[position] = place
    return order

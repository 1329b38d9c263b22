"""An order of vectors in which consecutive ones lie close together."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.assignment import assign_groups

MOST_BITS = 18
MOST_BITS_OF_AXIS = 8
SAMPLE = 4096


def cell_order(vectors: np.ndarray) -> np.ndarray:
    """Return an order, int32 [n], for finite float32 `vectors` [n, d], n not 0.

    Each axis is cut into cells as scalar k-means cuts a sample of it, so that cells are narrow where a quantizer's are.
    Boxes of cells follow each other along Morton's curve (1966): the bits of the cells' numbers, interleaved.
    """
    from graphpress.passes.clustering import cell_kernels as kernels  # loads numba
    from graphpress.passes.clustering import scalar_kernels

    size = len(vectors)
    axes = min(vectors.shape[1], MOST_BITS)
    bits = min(MOST_BITS // axes, MOST_BITS_OF_AXIS)
    step = max(1, size // SAMPLE)
    codes = np.zeros(size, np.uint32)
    for axis in range(axes):
        column = np.ascontiguousarray(vectors[:, axis])
        sample = np.sort(column[::step])
        table = scalar_kernels.fit_rows(sample[None], np.empty((1, 0), np.float32), 1 << bits)
        kernels.interleave(assign_groups(column[None], table)[0], axis, axes, codes)
    return kernels.counted_order(codes, 1 << (axes * bits))

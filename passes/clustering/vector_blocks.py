"""Vectors in blocks, so that passes over them are fast: a kernel takes a block of each axis at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel

LANES = 64


class VectorBlocks(NamedTuple):
    """Vectors [n, d], `LANES` to a block, and what is true of each block as a whole.

    The last block is filled up with the last vector, which does not count again.
    """

    size: int  # n
    axes: tuple[int, ...]  # the d axes; how many is part of the type, so loops over them are unrolled
    columns: np.ndarray  # float32 [blocks, d, LANES]
    weights: np.ndarray  # float32 [n], or [0] where every weight is one
    boxes: np.ndarray  # the least and the largest coordinates, float32 [blocks, 2, d]
    moments: np.ndarray  # the weighted sum, the mass, the squared error around the mean, float64 [blocks, d + 2]


@kernel
def blocks_of(vectors: np.ndarray, weights: np.ndarray, order: np.ndarray, axes: tuple[int, ...]) -> VectorBlocks:
    """Put the float32 `vectors` [n, d] into blocks in `order`, int32 [n]; the `weights` are in order already."""
    size, dimensions = vectors.shape
    count = -(-size // LANES)
    columns = np.zeros((count, dimensions, LANES), np.float32)
    boxes = np.zeros((count, 2, dimensions), np.float32)
    moments = np.zeros((count, dimensions + 2))
    for block in range(count):
        start = block * LANES
        for lane in range(LANES):
            place = order[min(start + lane, size - 1)]
            for axis in range(dimensions):
                columns[block, axis, lane] = vectors[place, axis]
        for axis in range(dimensions):
            column = columns[block, axis]
            low = high = column[0]
            for lane in range(LANES):
                low = min(low, column[lane])
                high = max(high, column[lane])
            boxes[block, 0, axis] = low
            boxes[block, 1, axis] = high
        lanes = min(LANES, size - start)
        for lane in range(lanes):
            moments[block, dimensions] += weight_of(weights, start + lane)
        mass = moments[block, dimensions]
        if not mass > 0.0:
            continue
        for axis in range(dimensions):
            for lane in range(lanes):
                moments[block, axis] += weight_of(weights, start + lane) * columns[block, axis, lane]
            mean = moments[block, axis] / mass
            for lane in range(lanes):
                offset = columns[block, axis, lane] - mean
                moments[block, dimensions + 1] += weight_of(weights, start + lane) * offset * offset
    return VectorBlocks(size, axes, columns, weights, boxes, moments)


@kernel
def vectors_at(blocks: VectorBlocks, places: np.ndarray) -> np.ndarray:
    """Return the vectors at the integer `places` [m], float32 [m, d]."""
    out = np.empty((places.size, len(blocks.axes)), np.float32)
    for index in range(places.size):
        block, lane = divmod(places[index], LANES)
        for axis in range(len(blocks.axes)):
            out[index, axis] = blocks.columns[block, axis, lane]
    return out


@helper
def weight_of(weights: np.ndarray, place: int) -> float:
    """Return the weight of a vector."""
    return np.float64(weights[place]) if weights.size else 1.0

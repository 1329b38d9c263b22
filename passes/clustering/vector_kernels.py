"""Kernels of vector k-means: vector blocks, nearest centroids, and cluster sums."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel


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
    """Return the stable order, int32 [n], that sorts `codes`, uint32 [n] below `limit`."""
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


LANES = 64


class VectorBlocks(NamedTuple):
    """Vectors [n, d] in blocks of `LANES`, with bounds and moments per block.

    The last block is padded with the last vector, which does not count twice.
    """

    size: int  # n
    axes: tuple[int, ...]  # as a tuple, whose length is part of the type, so that loops over axes are unrolled
    columns: np.ndarray  # float32 [blocks, d, LANES]
    weights: np.ndarray  # float32 [n], or [0] if all weights are one
    boxes: np.ndarray  # minimum and maximum coordinates, float32 [blocks, 2, d]
    moments: np.ndarray  # weighted sum, mass, squared error around the mean, float64 [blocks, d + 2]


@kernel
def blocks_of(vectors: np.ndarray, weights: np.ndarray, order: np.ndarray, axes: tuple[int, ...]) -> VectorBlocks:
    """Copy the float32 `vectors` [n, d] into blocks in `order`, int32 [n]; the `weights` are already in this order."""
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
    """Return the vectors at the positions `places` [m], float32 [m, d]."""
    out = np.empty((places.size, len(blocks.axes)), np.float32)
    for index in range(places.size):
        block, lane = divmod(places[index], LANES)
        for axis in range(len(blocks.axes)):
            out[index, axis] = blocks.columns[block, axis, lane]
    return out


@helper
def weight_of(weights: np.ndarray, place: int) -> float:
    """Return the weight of one vector."""
    return np.float64(weights[place]) if weights.size else 1.0


@kernel
def nearest(blocks: VectorBlocks, centroids: np.ndarray, indices: np.ndarray) -> float:
    """Write the index of the first nearest centroid into `indices`, uint8 [n]; return the weighted squared error."""
    work = make_work(blocks, centroids)
    weights, totals = np.empty(LANES), np.zeros(LANES)
    for block in range(blocks.columns.shape[0]):
        compare(blocks, block, possible_centroids(blocks, block, work), work)
        weigh(blocks, block, weights)
        for lane in range(LANES):
            totals[lane] += weights[lane] * work.best[lane]
        start = block * LANES
        for lane in range(min(LANES, blocks.size - start)):
            indices[start + lane] = work.choice[lane]
    return totals.sum()


@kernel
def nearest_errors(blocks: VectorBlocks, centroids: np.ndarray) -> np.ndarray:
    """Return the square root of the weighted squared distance to the nearest centroid, float32 [n].

    Squares may exceed the float32 range, their roots do not.
    """
    work = make_work(blocks, centroids)
    errors = np.empty(blocks.size, np.float32)
    for block in range(blocks.columns.shape[0]):
        compare(blocks, block, possible_centroids(blocks, block, work), work)
        start = block * LANES
        for lane in range(min(LANES, blocks.size - start)):
            errors[start + lane] = np.sqrt(weight_of(blocks.weights, start + lane) * work.best[lane])
    return errors


@kernel
def lower_errors(blocks: VectorBlocks, centroid: np.ndarray, errors: np.ndarray) -> None:
    """Update the `errors` of `nearest_errors` for one more centroid, float64 [d]."""
    for place in range(blocks.size):
        block, lane = divmod(place, LANES)
        distance = 0.0
        for axis in range(len(blocks.axes)):
            offset = blocks.columns[block, axis, lane] - centroid[axis]
            distance += offset * offset
        errors[place] = min(errors[place], np.float32(np.sqrt(weight_of(blocks.weights, place) * distance)))


@kernel
def nearest_sums(blocks: VectorBlocks, centroids: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the weighted squared error against the nearest of `centroids`, and the sums of each cluster.

    The sums are float64 [clusters, d + 1]: the weighted sum of the vectors, then their mass. A block that belongs to
    one centroid as a whole is added through its moments.
    """
    axes, moments, weights = len(blocks.axes), blocks.moments, np.empty(LANES)
    work = make_work(blocks, centroids)
    sums = np.zeros((2, centroids.shape[0], axes + 1))
    totals = np.zeros(LANES)
    total = 0.0
    for block in range(blocks.columns.shape[0]):
        found = possible_centroids(blocks, block, work)
        if found == 1:
            cluster, mass = work.candidates[0], moments[block, axes]
            if mass > 0.0:
                distance = 0.0
                for axis in range(axes):
                    offset = moments[block, axis] / mass - centroids[cluster, axis]
                    distance += offset * offset
                    sums[0, cluster, axis] += moments[block, axis]
                sums[0, cluster, axes] += mass
                total += moments[block, axes + 1] + mass * distance
            continue
        compare(blocks, block, found, work)
        weigh(blocks, block, weights)
        for lane in range(LANES):
            totals[lane] += weights[lane] * work.best[lane]
        for lane in range(0, LANES, 2):
            cluster, other = work.choice[lane], work.choice[lane + 1]
            for axis in range(len(blocks.axes)):
                sums[0, cluster, axis] += weights[lane] * work.block[axis, lane]
                sums[1, other, axis] += weights[lane + 1] * work.block[axis, lane + 1]
            sums[0, cluster, axes] += weights[lane]
            sums[1, other, axes] += weights[lane + 1]
    return total + totals.sum(), sums[0] + sums[1]


class Work(NamedTuple):
    """Scratch memory for the search in one block of vectors; float64 unless noted."""

    centroids: np.ndarray  # [d, k]
    block: np.ndarray  # the vectors, [d, LANES]
    least: np.ndarray  # minimum squared distances to a box, [k]
    most: np.ndarray  # maximum, [k]
    best: np.ndarray  # squared distances to the nearest centroids, [LANES]
    choice: np.ndarray  # their indices, int32 [LANES]
    candidates: np.ndarray  # the centroids not excluded by the box, int32 [k]


@helper
def make_work(blocks: VectorBlocks, centroids: np.ndarray) -> Work:
    """Allocate scratch memory for searches."""
    clusters = centroids.shape[0]
    columns = np.empty((len(blocks.axes), clusters))
    for axis in range(len(blocks.axes)):
        for cluster in range(clusters):
            columns[axis, cluster] = centroids[cluster, axis]
    return Work(
        columns,
        np.empty((len(blocks.axes), LANES)),
        np.empty(clusters),
        np.empty(clusters),
        np.empty(LANES),
        np.empty(LANES, np.int32),
        np.empty(clusters, np.int32),
    )


@helper
def possible_centroids(blocks: VectorBlocks, number: int, work: Work) -> int:
    """Write the centroids that may be nearest to a vector of block `number` as candidates, and return their count.

    Rounding is monotonic, so that excluding the others does not change the result.
    """
    boxes, centroids, least, most = blocks.boxes, work.centroids, work.least, work.most
    clusters = centroids.shape[1]
    for cluster in range(clusters):
        least[cluster] = most[cluster] = 0.0
    for axis in range(len(blocks.axes)):
        low, high = boxes[number, 0, axis], boxes[number, 1, axis]
        for cluster in range(clusters):
            below = low - centroids[axis, cluster]
            above = centroids[axis, cluster] - high
            outside = max(max(below, above), 0.0)
            farthest = max(-above, -below)
            least[cluster] += outside * outside
            most[cluster] += farthest * farthest
    bound = second = third = fourth = np.inf
    for cluster in range(0, clusters - 3, 4):
        bound = min(bound, most[cluster])
        second = min(second, most[cluster + 1])
        third = min(third, most[cluster + 2])
        fourth = min(fourth, most[cluster + 3])
    for cluster in range(clusters & ~3, clusters):
        bound = min(bound, most[cluster])
    bound = min(min(bound, second), min(third, fourth))
    found = 0
    for cluster in range(clusters):
        if least[cluster] <= bound:
            work.candidates[found] = cluster
            found += 1
    return found


@helper
def compare(blocks: VectorBlocks, number: int, found: int, work: Work) -> None:
    """Choose the first nearest of the `found` candidates for each vector of block `number`."""
    block, best, choice = work.block, work.best, work.choice
    for axis in range(len(blocks.axes)):
        for lane in range(LANES):
            block[axis, lane] = blocks.columns[number, axis, lane]
    for lane in range(LANES):
        best[lane] = np.inf
        choice[lane] = 0
    for candidate in range(found):
        cluster = work.candidates[candidate]
        for lane in range(LANES):
            offset = block[0, lane] - work.centroids[0, cluster]
            distance = offset * offset
            for axis in range(1, len(blocks.axes)):
                offset = block[axis, lane] - work.centroids[axis, cluster]
                distance += offset * offset
            closer = distance < best[lane]
            best[lane] = min(distance, best[lane])
            choice[lane] = cluster if closer else choice[lane]


@helper
def weigh(blocks: VectorBlocks, number: int, weights: np.ndarray) -> None:
    """Write the weights of the vectors of block `number`, float64 [LANES], with 0 for padding."""
    start = number * LANES
    lanes = min(LANES, blocks.size - start)
    for lane in range(LANES):
        weights[lane] = 1.0 if lane < lanes else 0.0
    if blocks.weights.size:
        for lane in range(lanes):
            weights[lane] = blocks.weights[start + lane]

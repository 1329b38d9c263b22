"""Kernels that lead vector k-means out of poor optima: tables are spliced, and centroids put elsewhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel
from graphpress.passes.clustering.vector_blocks import LANES, VectorBlocks
from graphpress.passes.clustering.vector_kernels import nearest_errors, nearest_sums

SAME_ERROR = 1e-5  # tables whose errors differ by a smaller share are taken for one


class Trial(NamedTuple):
    """How far a trial is followed.

    It ends when a Lloyd step gains less than a share of `least_gain`, or when its error would still be above the one to
    beat if `most_left` times the last gain were gained.
    """

    steps: int  # at most
    least_gain: float
    most_left: float
    relaxation: float  # how far centroids move towards their means: below 2, so that the error never rises


@kernel
def spliced(blocks: VectorBlocks, tables: np.ndarray, draws: np.ndarray, directions: np.ndarray, how: Trial) -> None:
    """Better the `tables` of centroids, float64 [p, k, d], in place; the first is the best of them at the end.

    Cut and splice (Deaven and Ho, 1995): in each turn two tables are drawn and cut across a direction, and the lower
    part of one and the upper part of the other make a new one, which Lloyd steps settle. It takes the place of the
    worst if it is better and not one of them already.

    Args:
        draws: uniform numbers of [0, 1), float64 [turns, 3].
        directions: float64 [turns, d].
    """
    count, clusters, _ = tables.shape
    errors = np.empty(count)
    for table in range(count):
        errors[table], _ = nearest_sums(blocks, tables[table])
    for turn in range(draws.shape[0] if count > 1 and clusters > 1 else 0):
        first = int(draws[turn, 0] * count)
        second = (first + 1 + int(draws[turn, 1] * (count - 1))) % count
        cut = 1 + int(draws[turn, 2] * (clusters - 1))
        trial = np.empty_like(tables[0])
        low, high = ranked(tables[first], directions[turn]), ranked(tables[second], directions[turn])
        for rank in range(clusters):
            trial[rank] = tables[first, low[rank]] if rank < cut else tables[second, high[rank]]
        place = errors.argmax()  # the worst, or the same
        error = settled(blocks, trial, errors[place], how)
        nearest = np.abs(errors - error).argmin()
        if abs(errors[nearest] - error) <= SAME_ERROR * error:
            place = nearest
        if error < errors[place]:
            errors[place] = error
            tables[place] = trial
    best = errors.argmin()
    if best:
        tables[0] = tables[best]


@kernel
def swapped(blocks: VectorBlocks, centroids: np.ndarray, draws: np.ndarray, how: Trial) -> np.ndarray:
    """Return centroids of at most the squared error of `centroids`, float64 [k, d].

    Random swaps (Fränti, 2018): in each turn one centroid, drawn from all, goes to a vector drawn by its error, and
    Lloyd steps decide. `draws` are uniform numbers of [0, 1), float64 [turns, 2].
    """
    best = centroids.copy()
    error, _ = nearest_sums(blocks, best)
    errors = nearest_errors(blocks, best)
    chances = chances_of_blocks(errors)
    for turn in range(draws.shape[0]):
        if not chances[-1] > 0.0:
            break
        trial = best.copy()
        block, lane = drawn(errors, chances, draws[turn, 0] * chances[-1])
        cluster = int(draws[turn, 1] * centroids.shape[0])
        for axis in range(len(blocks.axes)):
            trial[cluster, axis] = blocks.columns[block, axis, lane]
        now = settled(blocks, trial, error, how)
        if now < error:
            error, best = now, trial
            errors = nearest_errors(blocks, best)
            chances = chances_of_blocks(errors)
    return best


@helper
def settled(blocks: VectorBlocks, trial: np.ndarray, error: float, how: Trial) -> float:
    """Move the centroids of `trial`, float64 [k, d], in place by Lloyd steps; return their error, not below its own.

    `error` is the one to beat.
    """
    before = now = np.inf
    for step in range(how.steps):
        now, sums = nearest_sums(blocks, trial)
        gain = before - now
        if not now < before * (1.0 - how.least_gain) or (step and now - gain * how.most_left > error):
            break
        before = now
        for cluster in range(trial.shape[0]):
            mass = sums[cluster, -1]
            for axis in range(trial.shape[1] if mass > 0.0 else 0):
                way = sums[cluster, axis] / mass - trial[cluster, axis]
                trial[cluster, axis] += way * how.relaxation if step else way
    return now


@helper
def ranked(centroids: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the order, int64 [k], in which `centroids` [k, d] lie in a `direction` [d]."""
    heights = np.zeros(centroids.shape[0])
    for axis in range(centroids.shape[1]):
        heights += centroids[:, axis] * direction[axis]
    return np.argsort(heights, kind="mergesort")


@helper
def chances_of_blocks(errors: np.ndarray) -> np.ndarray:
    """Return the sums of the squares of `errors`, float32 [n], up to the end of each block, float64 [blocks]."""
    chances = np.empty(-(-errors.size // LANES))
    total = 0.0
    for block in range(chances.size):
        for place in range(block * LANES, min(block * LANES + LANES, errors.size)):
            total += np.float64(errors[place]) * np.float64(errors[place])
        chances[block] = total
    return chances


@helper
def drawn(errors: np.ndarray, chances: np.ndarray, height: float) -> tuple[int, int]:
    """Return the block and lane of the vector up to which the squares of `errors` sum up to `height`."""
    block = min(int(np.searchsorted(chances, height, "right")), chances.size - 1)
    below = chances[block - 1] if block else 0.0
    lane, lanes = 0, min(LANES, errors.size - block * LANES)
    for place in range(block * LANES, block * LANES + lanes - 1):
        below += np.float64(errors[place]) * np.float64(errors[place])
        if below > height:
            break
        lane += 1
    return block, lane

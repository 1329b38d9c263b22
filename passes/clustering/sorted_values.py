"""Kernels that sum ranges of sorted values in constant time.

Float64 sums at every 32nd value accumulate outwards from the value nearest to zero, so that magnitudes grow along each
sum: an outlier at either end never absorbs the small values in the middle.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np

from graphpress.passes.clustering.compile import helper

BLOCK = 32
# Typed, because numba compiles a function again for each literal argument.
NO_PLACE = cast(int, np.int64(0))


class SortedValues(NamedTuple):
    """Sorted values with prefix sums per block.

    Row t of `upper` holds mass and moment (sums of weight and of weight times value) of the first `BLOCK` t values
    above the anchor, row t of `lower` those of the last `BLOCK` t values below it; float64 [blocks, 2].
    """

    values: np.ndarray  # float32 [n], ascending
    weights: np.ndarray  # float32 [n], or [0] if all weights are one
    anchor: int  # position of the first non-negative value
    upper: np.ndarray
    lower: np.ndarray


@helper
def summarize(values: np.ndarray, weights: np.ndarray) -> SortedValues:
    """Return the `SortedValues` of ascending float32 `values` [n] and their weights ([n] or [0])."""
    anchor = first_above(values, np.float64(-1e-46), NO_PLACE, values.size)
    upper = np.empty(((values.size - anchor) // BLOCK + 1, 2))
    lower = np.empty((anchor // BLOCK + 1, 2))
    upper[0, 0] = upper[0, 1] = lower[0, 0] = lower[0, 1] = 0.0
    for block in range(upper.shape[0] + lower.shape[0] - 2):
        if block + 1 < upper.shape[0]:
            sums, row = upper, block
            start = anchor + row * BLOCK
        else:
            sums, row = lower, block + 1 - upper.shape[0]
            start = anchor - (row + 1) * BLOCK
        mass, moment = partial_sums(values, weights, start, start + BLOCK)
        sums[row + 1, 0] = sums[row, 0] + mass
        sums[row + 1, 1] = sums[row, 1] + moment
    return SortedValues(values, weights, anchor, upper, lower)


@helper
def first_above(values: np.ndarray, threshold: float, low: int, high: int) -> int:
    """Return the first place in ``[low, high)`` of a value above the float64 `threshold`, or `high`."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] > threshold:
            high = middle
        else:
            low = middle + 1
    return low


@helper
def partial_sums(values: np.ndarray, weights: np.ndarray, low: int, high: int) -> tuple[float, float]:
    """Return mass and moment over ``[low, high)`` in float64, summed value by value in a fixed order."""
    mass = first = second = third = fourth = 0.0
    if weights.size:
        for place in range(low, high):
            weight = np.float64(weights[place])
            mass += weight
            first += np.float64(values[place]) * weight
        return mass, first
    aligned = low + ((high - low) & ~3)
    for place in range(low, aligned, 4):
        first += np.float64(values[place])
        second += np.float64(values[place + 1])
        third += np.float64(values[place + 2])
        fourth += np.float64(values[place + 3])
    for place in range(aligned, high):
        first += np.float64(values[place])
    return np.float64(high - low), (first + second) + (third + fourth)


@helper
def sums_below(data: SortedValues, place: int) -> tuple[float, float]:
    """Return mass and moment from the anchor to `place`, negative when `place` lies below the anchor."""
    if place >= data.anchor:
        block = (place - data.anchor) // BLOCK
        sums, sign = data.upper, 1.0
        low, high = data.anchor + block * BLOCK, place
    else:
        block = (data.anchor - place) // BLOCK
        sums, sign = data.lower, -1.0
        low, high = place, data.anchor - block * BLOCK
    mass, moment = partial_sums(data.values, data.weights, low, high)
    return sign * (sums[block, 0] + mass), sign * (sums[block, 1] + moment)


@helper
def sums_of(data: SortedValues, low: int, high: int) -> tuple[float, float]:
    """Return mass and moment over ``[low, high)``."""
    if high - low <= 2 * BLOCK:  # summed directly: a light cluster of outliers would vanish in the differences
        return partial_sums(data.values, data.weights, low, high)
    low_mass, low_moment = sums_below(data, low)
    high_mass, high_moment = sums_below(data, high)
    return max(high_mass - low_mass, 0.0), high_moment - low_moment


@helper
def mass_and_mean(data: SortedValues, low: int, high: int) -> tuple[float, float]:
    """Return mass and weighted mean over the non-empty ``[low, high)``, or the middle of its range without weight."""
    smallest = np.float64(data.values[low])
    largest = np.float64(data.values[high - 1])
    mass, moment = sums_of(data, low, high)
    if smallest == largest or not mass > 0.0:
        return mass, smallest + (largest - smallest) * 0.5
    return mass, min(max(moment / mass, smallest), largest)


@helper
def squared_error(values: np.ndarray, weights: np.ndarray, low: int, high: int, center: float) -> float:
    """Return the sum of weight times squared distance to `center` over ``[low, high)``, without cancellation."""
    first = second = third = fourth = 0.0
    if weights.size:
        for place in range(low, high):
            distance = np.float64(values[place]) - center
            first += distance * distance * np.float64(weights[place])
        return first
    aligned = low + ((high - low) & ~3)
    for place in range(low, aligned, 4):
        distance = np.float64(values[place]) - center
        first += distance * distance
        distance = np.float64(values[place + 1]) - center
        second += distance * distance
        distance = np.float64(values[place + 2]) - center
        third += distance * distance
        distance = np.float64(values[place + 3]) - center
        fourth += distance * distance
    for place in range(aligned, high):
        distance = np.float64(values[place]) - center
        first += distance * distance
    return (first + second) + (third + fourth)

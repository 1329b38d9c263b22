"""Kernels that sum ranges of sorted values in constant time.

Block sums every 64 values, in float64, accumulate outwards from the value nearest to zero, so that magnitudes
only grow along each sum: a huge outlier at either end never swallows the small values in the middle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphpress.passes.clustering.compile import kernel

BLOCK = 64


class SortedValues(NamedTuple):
    """Sorted values with their block sums; block t ends `BLOCK * t` places from `anchor`."""

    values: np.ndarray  # float32 [n], ascending
    weights: np.ndarray  # float32 [n], or [0] when every weight is one
    anchor: int  # the first place of a value that is not negative
    upper_sums: np.ndarray  # float64: sums of weight times value above the anchor
    lower_sums: np.ndarray  # the same below it
    upper_masses: np.ndarray  # float64: sums of the weights, or [0]
    lower_masses: np.ndarray


@kernel
def first_above(values, threshold, low, high):
    """Return the first place in ``[low, high)`` of a value above `threshold`, or `high`."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] > threshold:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def plain_sum(values, low, high):
    """Sum ``values[low:high]`` in float64 with eight running sums, in a fixed order."""
    lanes = np.zeros(8)
    whole = low + ((high - low) & ~7)
    for start in range(low, whole, 8):
        for lane in range(8):
            lanes[lane] += np.float64(values[start + lane])
    total = 0.0
    for place in range(whole, high):
        total += np.float64(values[place])
    for lane in range(8):
        total += lanes[lane]
    return total


@kernel
def weighted_sum(values, weights, low, high):
    """Sum weight times value over ``[low, high)`` in float64; without weights a plain sum."""
    if weights.size == 0:
        return plain_sum(values, low, high)
    total = 0.0
    for place in range(low, high):
        total += np.float64(values[place]) * np.float64(weights[place])
    return total


@kernel
def summarize(values, weights):
    """Return the `SortedValues` of ascending float32 `values` [n] and their weights ([n] or [0])."""
    size = values.size
    anchor = first_above(values, np.float32(-1e-45), 0, size)
    above = (size - anchor) // BLOCK
    below = anchor // BLOCK
    upper_sums = np.zeros(above + 1)
    lower_sums = np.zeros(below + 1)
    for block in range(above):
        start = anchor + block * BLOCK
        upper_sums[block + 1] = upper_sums[block] + weighted_sum(values, weights, start, start + BLOCK)
    for block in range(below):
        end = anchor - block * BLOCK
        lower_sums[block + 1] = lower_sums[block] + weighted_sum(values, weights, end - BLOCK, end)
    upper_masses = np.zeros(0)
    lower_masses = np.zeros(0)
    if weights.size:
        upper_masses = np.zeros(above + 1)
        lower_masses = np.zeros(below + 1)
        for block in range(above):
            start = anchor + block * BLOCK
            upper_masses[block + 1] = upper_masses[block] + plain_sum(weights, start, start + BLOCK)
        for block in range(below):
            end = anchor - block * BLOCK
            lower_masses[block + 1] = lower_masses[block] + plain_sum(weights, end - BLOCK, end)
    return SortedValues(values, weights, anchor, upper_sums, lower_sums, upper_masses, lower_masses)


@kernel
def sum_below(data, place):
    """Sum weight times value from the anchor to `place` (negative when `place` lies below the anchor)."""
    if place >= data.anchor:
        block = (place - data.anchor) // BLOCK
        start = data.anchor + block * BLOCK
        return data.upper_sums[block] + weighted_sum(data.values, data.weights, start, place)
    block = (data.anchor - place) // BLOCK
    end = data.anchor - block * BLOCK
    return -(data.lower_sums[block] + weighted_sum(data.values, data.weights, place, end))


@kernel
def mass_below(data, place):
    """Sum the weights from the anchor to `place`; without weights the places themselves."""
    if data.weights.size == 0:
        return np.float64(place)
    if place >= data.anchor:
        block = (place - data.anchor) // BLOCK
        start = data.anchor + block * BLOCK
        return data.upper_masses[block] + plain_sum(data.weights, start, place)
    block = (data.anchor - place) // BLOCK
    end = data.anchor - block * BLOCK
    return -(data.lower_masses[block] + plain_sum(data.weights, place, end))


@kernel
def mass_of(data, low, high):
    """Sum the weights over ``[low, high)``."""
    if data.weights.size == 0:
        return np.float64(high - low)
    if high - low <= 2 * BLOCK:  # short sums exactly: a light cluster far out would drown in the long ones
        return plain_sum(data.weights, low, high)
    return max(mass_below(data, high) - mass_below(data, low), 0.0)


@kernel
def mean_of(data, low, high):
    """Return the weighted mean over ``[low, high)``, not empty; the middle of its range where no weight is."""
    smallest = np.float64(data.values[low])
    largest = np.float64(data.values[high - 1])
    mass = mass_of(data, low, high)
    if smallest == largest or not mass > 0.0:
        return smallest + (largest - smallest) * 0.5
    if high - low <= 2 * BLOCK:
        total = weighted_sum(data.values, data.weights, low, high)
    else:
        total = sum_below(data, high) - sum_below(data, low)
    return min(max(total / mass, smallest), largest)


@kernel
def squared_error(values, weights, low, high, center):
    """Sum weight times squared distance to `center` over ``[low, high)``, directly: nothing cancels."""
    lanes = np.zeros(8)
    whole = low + ((high - low) & ~7)
    weighted = weights.size > 0
    if not weighted:
        for start in range(low, whole, 8):
            for lane in range(8):
                distance = np.float64(values[start + lane]) - center
                lanes[lane] += distance * distance
    else:
        whole = low
    total = 0.0
    for place in range(whole, high):
        distance = np.float64(values[place]) - center
        if weighted:
            distance *= distance * np.float64(weights[place])
        else:
            distance *= distance
        total += distance
    for lane in range(8):
        total += lanes[lane]
    return total

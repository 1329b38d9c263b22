"""Kernel that orders vectors so that consecutive ones lie close together."""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper, kernel


@kernel
def tree_order(vectors: np.ndarray, leaf: int) -> np.ndarray:
    """Return the order of a k-d tree's leaves, int32 [n], for float32 `vectors` [n, d].

    Boxes are halved at the median of their widest axis down to at most `leaf` vectors; the halves are multiples of
    `leaf`, so that every run of `leaf` places from a multiple of `leaf` lies in one box.
    """
    size, dimensions = vectors.shape
    order = np.empty(size, np.int32)
    for place in range(size):
        order[place] = place
    pending = np.empty((128, 2), np.int64)
    pending[0, 0], pending[0, 1] = 0, size
    waiting = 1
    while waiting:
        waiting -= 1
        low, high = pending[waiting, 0], pending[waiting, 1]
        if high - low <= leaf:
            continue
        widest, width = 0, -1.0
        for axis in range(dimensions):
            smallest = largest = vectors[order[low], axis]
            for place in range(low + 1, high):
                value = vectors[order[place], axis]
                smallest = min(smallest, value)
                largest = max(largest, value)
            if np.float64(largest) - np.float64(smallest) > width:
                widest, width = axis, np.float64(largest) - np.float64(smallest)
        if width == 0.0:
            continue
        middle = low + ((high - low) // leaf + 1) // 2 * leaf
        select(vectors, order, widest, low, high, middle)
        pending[waiting, 0], pending[waiting, 1] = low, middle
        pending[waiting + 1, 0], pending[waiting + 1, 1] = middle, high
        waiting += 2
    return order


@helper
def select(vectors: np.ndarray, order: np.ndarray, axis: int, low: int, high: int, rank: int) -> None:
    """Permute ``order[low:high]`` so that place `rank` holds what sorting along `axis` would put there.

    Smaller or equal coordinates come before, larger or equal ones after (Hoare's selection).
    """
    high -= 1
    while low < high:
        pivot = vectors[order[(low + high) >> 1], axis]
        left, right = low, high
        while left <= right:
            while vectors[order[left], axis] < pivot:
                left += 1
            while vectors[order[right], axis] > pivot:
                right -= 1
            if left <= right:
                order[left], order[right] = order[right], order[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            return

"""Kernels that sort float32 values, alone or with their weights.

Radix sort on the bits of the floats: four passes of 8 bits, linear in the number of values. The bits of a float32 map
to an unsigned integer of the same order by flipping the sign bit of positive numbers and all bits of negative ones.
"""

from __future__ import annotations

import numpy as np

from graphpress.passes.clustering.compile import helper

SIGN = np.uint32(0x80000000)
BYTE = np.uint32(0xFF)
TOP = np.uint32(24)


@helper
def ordered(bits: np.uint32) -> np.uint32:
    """Map the bits of a float32 to an unsigned integer of the same order."""
    return bits ^ (np.uint32(np.int32(bits) >> 31) | SIGN)


@helper
def unordered(key: np.uint32) -> np.uint32:
    """Invert `ordered`."""
    return key ^ (np.uint32(~np.int32(key) >> 31) | SIGN)


@helper
def digit_offsets(bits: np.ndarray) -> np.ndarray:
    """Return the start offset of each byte value for each of the four bytes of the ordered keys, int64 [4, 256]."""
    offsets = np.zeros((4, 256), np.int64)
    for i in range(bits.size):
        key = ordered(bits[i])
        offsets[0, key & BYTE] += 1
        offsets[1, (key >> np.uint32(8)) & BYTE] += 1
        offsets[2, (key >> np.uint32(16)) & BYTE] += 1
        offsets[3, key >> TOP] += 1
    for digit in range(4):
        start = 0
        for value in range(256):
            count = offsets[digit, value]
            offsets[digit, value] = start
            start += count
    return offsets


@helper
def sort_values(bits: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    """Write the floats whose bits are `bits` into `out` (as bits too) in ascending order; uint32 [n] each."""
    offsets = digit_offsets(bits)
    for i in range(bits.size):
        key = ordered(bits[i])
        digit = key & BYTE
        position = offsets[0, digit]
        offsets[0, digit] = position + 1
        scratch[position] = key
    for i in range(bits.size):
        key = scratch[i]
        digit = (key >> np.uint32(8)) & BYTE
        position = offsets[1, digit]
        offsets[1, digit] = position + 1
        out[position] = key
    for i in range(bits.size):
        key = out[i]
        digit = (key >> np.uint32(16)) & BYTE
        position = offsets[2, digit]
        offsets[2, digit] = position + 1
        scratch[position] = key
    for i in range(bits.size):
        key = scratch[i]
        digit = key >> TOP
        position = offsets[3, digit]
        offsets[3, digit] = position + 1
        out[position] = unordered(key)


@helper
def sort_in_buckets(bits: np.ndarray, out: np.ndarray) -> None:
    """Sort as `sort_values` does, with scratch memory for the most frequent leading byte only.

    The values are distributed by the leading byte; each bucket is then sorted by the other bytes, in cache if it fits.
    """
    counts = np.zeros(256, np.int64)
    for i in range(bits.size):
        counts[ordered(bits[i]) >> TOP] += 1
    ends = np.empty(256, np.int64)
    position = widest = np.int64(0)
    for value in range(256):
        ends[value] = position
        position += counts[value]
        widest = max(widest, counts[value])
    for i in range(bits.size):
        key = ordered(bits[i])
        out[ends[key >> TOP]] = key
        ends[key >> TOP] += 1
    scratch = np.empty(widest, np.uint32)
    for value in range(256):
        low, high = ends[value] - counts[value], ends[value]
        if low < high:
            sort_bucket(out[low:high], scratch)


@helper
def sort_bucket(keys: np.ndarray, scratch: np.ndarray) -> None:
    """Replace ordered `keys` that share their leading byte by the bits of their floats, in ascending order."""
    size = keys.size
    offsets = np.zeros((3, 256), np.int64)
    for i in range(size):
        key = keys[i]
        offsets[0, key & BYTE] += 1
        offsets[1, (key >> np.uint32(8)) & BYTE] += 1
        offsets[2, (key >> np.uint32(16)) & BYTE] += 1
    for digit in range(3):
        start = np.int64(0)
        for value in range(256):
            count = offsets[digit, value]
            offsets[digit, value] = start
            start += count
    for i in range(size):
        key = keys[i]
        digit = key & BYTE
        position = offsets[0, digit]
        offsets[0, digit] = position + 1
        scratch[position] = key
    for i in range(size):
        key = scratch[i]
        digit = (key >> np.uint32(8)) & BYTE
        position = offsets[1, digit]
        offsets[1, digit] = position + 1
        keys[position] = key
    for i in range(size):
        key = keys[i]
        digit = (key >> np.uint32(16)) & BYTE
        position = offsets[2, digit]
        offsets[2, digit] = position + 1
        scratch[position] = unordered(key)
    for i in range(size):
        keys[i] = scratch[i]


@helper
def sort_pairs(keys: np.ndarray, weights: np.ndarray) -> None:
    """Sort ordered `keys`, uint32 [n], in place, together with their float32 `weights`.

    In-place radix sort from the leading byte down (McIlroy, Bostic and McIlroy, "Engineering radix sort", 1993), with
    insertion sort for short runs.
    """
    starts = np.empty(256, np.int64)
    ends = np.empty(256, np.int64)
    pending = np.empty((1024, 3), np.int64)
    pending[0, 0], pending[0, 1], pending[0, 2] = 0, keys.size, 24
    waiting = 1
    while waiting:
        waiting -= 1
        low, high, shift = pending[waiting, 0], pending[waiting, 1], np.uint32(pending[waiting, 2])
        if high - low <= 32:
            insert_pairs(keys, weights, low, high)
            continue
        ends[:] = 0
        for place in range(low, high):
            ends[(keys[place] >> shift) & BYTE] += 1
        position = low
        for value in range(256):
            starts[value] = position
            position += ends[value]
            ends[value] = position
            if shift and ends[value] - starts[value] > 1:
                pending[waiting, 0], pending[waiting, 1] = starts[value], ends[value]
                pending[waiting, 2] = np.int64(shift) - 8
                waiting += 1
        for value in range(256):
            while starts[value] < ends[value]:
                key, weight = keys[starts[value]], weights[starts[value]]
                digit = (key >> shift) & BYTE
                while digit != value:
                    place = starts[digit]
                    starts[digit] = place + 1
                    key, keys[place] = keys[place], key
                    weight, weights[place] = weights[place], weight
                    digit = (key >> shift) & BYTE
                keys[starts[value]], weights[starts[value]] = key, weight
                starts[value] += 1


@helper
def insert_pairs(keys: np.ndarray, weights: np.ndarray, low: int, high: int) -> None:
    """Sort the pairs of ``[low, high)`` by insertion."""
    for place in range(low + 1, high):
        key, weight = keys[place], weights[place]
        hole = place
        while hole > low and keys[hole - 1] > key:
            keys[hole], weights[hole] = keys[hole - 1], weights[hole - 1]
            hole -= 1
        keys[hole], weights[hole] = key, weight

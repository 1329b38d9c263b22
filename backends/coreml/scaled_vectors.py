"""Tables of vectors that hold the scales of the channels their vectors lie along."""

from __future__ import annotations

from torch import Tensor


def scaled_vectors(lut: Tensor, scale: Tensor, axis: int, extent: int) -> Tensor:
    """A table for each group of channels that share a vector, with the scales in its entries.

    Before iOS26 coremltools moves a scale into the table and takes each of its blocks for a block of indices, which are
    fewer along the axis of the vectors; and its metadata has no words for scales beside vectors.

    Args:
        lut: floats ``[b0..bK-1, entries, V]``.
        scale: of the weight's rank, each axis a divisor of the weight's.
        axis: along which the V values of an entry lie.
        extent: of the indices along `axis`.

    Returns:
        Tables ``[c0..cK-1, entries, V]``, where ``c`` is `extent` along `axis` and the larger of both elsewhere.
        Entries are the products in the dtype of `lut`, as they would be after the lookup.
    """
    width = lut.shape[-1]
    blocks = [max(pair) for pair in zip(lut.shape, scale.shape, strict=False)]
    blocks[axis] = extent
    for at, size in enumerate(blocks):
        lut = lut.repeat_interleave(size // lut.shape[at], dim=at)
        scale = scale.repeat_interleave(size * (width if at == axis else 1) // scale.shape[at], dim=at)
    parted = scale.unflatten(axis, (extent, width)).movedim(axis + 1, -1)
    return lut * parted.unsqueeze(-2).to(lut.dtype)

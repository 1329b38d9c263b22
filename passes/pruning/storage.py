"""When zeros are worth a mask."""

from __future__ import annotations

from torch import Tensor


def is_smaller_sparse(mask: Tensor, bits: int) -> bool:
    """True where a mask of one bit per element and the kept elements of `bits` bits take less than all elements do.

    Without zeros, and with nothing but zeros, there is nothing to gain: a constant of one value takes no space.
    """
    kept = int(mask.sum())
    return kept > 0 and mask.numel() + kept * bits < mask.numel() * bits

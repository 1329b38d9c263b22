"""Codes of fewer than 8 bits as the dialect stores them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """The low `bits` bits of uint8 `codes`, of any shape, as a 1-D uint8 stream of ``ceil(bits * size / 8)`` bytes.

    Lowest bits come first; the last byte is filled up with zeros.
    """
    stream = np.unpackbits(codes.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(stream.reshape(-1), bitorder="little")

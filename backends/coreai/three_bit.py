"""3-bit lookup tables for a converter that has the type but not the packing.

The Core AI dialect stores `ui3`, and its runtime reads it, but `coreai_torch` (0.4) packs indices of 1, 2, 4
and 6 bits only. `teach_converter` supplies the missing packing, so that `torch.ops.coreai.lut_to_dense` with
an 8-entry table converts like any other, in our `convert` and for users who call `TorchConverter` themselves.
"""

from __future__ import annotations

from typing import Any

import torch

from graphpress.backends.coreai.bit_packing import packed
from graphpress.backends.coreai.ops import require


def teach_converter() -> None:
    """Replace the converter's class of packed unsigned tensors by one that also packs 3 bits.

    Tensors it has packed already are passed through, so one buffer may feed several operators. A release
    of the converter that packs 3 bits itself, or that is built differently, is left as it is.
    """
    utils: Any = require("coreai_torch._compression.utils")
    intx = require("coreai_torch._compression._intx")
    packed_class: Any = getattr(utils, "UintxTensor", None)
    if packed_class is None or 3 in packed_class.nbits_to_dtype:
        return

    class UintxTensor(packed_class):
        """The converter's packed unsigned tensor, with 3 bits among its widths."""

        nbits_to_dtype = {**packed_class.nbits_to_dtype, 3: torch.uint3}  # type: ignore[attr-defined]

        def __init__(self, elem: torch.Tensor, tensor_shape: torch.Size, nbits: int) -> None:
            intx.SubbyteTensor.__init__(self, elem, tensor_shape, nbits, signed=False)

        @classmethod
        def from_unpacked(cls, unpacked: torch.Tensor, nbits: int) -> torch.Tensor:
            """Pack codes held one per byte."""
            if isinstance(unpacked, packed_class):
                return unpacked
            if nbits != 3:
                return packed_class.from_unpacked(unpacked, nbits)
            return cls(pack_three_bits(unpacked), unpacked.shape, nbits)

    utils.UintxTensor = UintxTensor


def pack_three_bits(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes 0 to 7 of any shape into a 1-D uint8 bit stream, 3 bits each, lowest bit first.

    The length is `ceil(3 * numel / 8)`; the last byte is filled up with zeros.
    """
    return torch.from_numpy(packed(codes.detach().cpu().to(torch.uint8).numpy(), 3))

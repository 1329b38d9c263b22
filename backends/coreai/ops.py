"""The torch operators Core AI stores compressed tensors with, and what torch and the converter lack for small codes."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphpress.backends.errors import MissingDependencyError
from graphpress.ir import reference
from graphpress.ir.dtypes import DType


def packed(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """The low `bits` bits of uint8 `codes`, of any shape, as a 1-D uint8 stream of ``ceil(bits * size / 8)`` bytes.

    Lowest bits come first; the last byte is filled up with zeros.
    """
    stream = np.unpackbits(codes.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(stream.reshape(-1), bitorder="little")


def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: DType | torch.dtype,
    zero_point: Tensor | None = None,
    minval: Tensor | None = None,
    axis: int = 0,
) -> Tensor:
    """What ``torch.ops.coreai.quantize`` means, for every element type.

    Args:
        input: floats.
        scale, zero_point, minval: with one entry, or one for each index along `axis`.
        output_dtype: of the codes.
        axis: of `input`.

    Returns:
        the codes, those of less than 8 bits in int8 or uint8.
    """
    dtype = DType.of(output_dtype)
    if dtype.is_dense:
        codes: Tensor = torch.ops.coreai.quantize(input, scale, dtype.torch_dtype, zero_point, minval, axis)
        return codes
    along = [1] * input.dim()
    if input.dim():
        along[axis] = -1
    ranked = [None if value is None else value.reshape(along) for value in (zero_point, minval)]
    return reference.quantize(input, scale.reshape(along), *ranked, dtype=dtype)


OPERATORS = ("lut_to_dense", "constexpr_blockwise_shift_scale", "quantize", "dequantize", "sparse_to_dense")
"""The operators of `torch.ops.coreai` that hold or make compressed values."""


@cache
def register() -> None:
    """Make `torch.ops.coreai.*` callable and let the converter accept 3-bit lookup tables.

    Safe to call any number of times; the work is done once.

    Raises:
        MissingDependencyError: when `coreai-torch` or `coreai-core` is not installed.
    """

    require("coreai_torch._compression.custom_layers")
    teach_converter()
    _name_small_integers()


def _name_small_integers() -> None:
    """Give torch's graph printer names for its own integers below 8 bits.

    Torch 2.13 leaves them out, and prints every graph it decomposes wherever tracing is logged, which pytest
    turns on: 4-bit activations would then fail with a bare `KeyError`.
    """
    names = getattr(importlib.import_module("torch.utils._dtype_abbrs"), "dtype_abbrs", {})
    for bits in range(1, 8):
        names.setdefault(getattr(torch, f"int{bits}"), f"i{bits}")
        names.setdefault(getattr(torch, f"uint{bits}"), f"u{bits}")


def require(module: str) -> ModuleType:
    """Import `module` of `coreai_torch` or `coreai`, or say which extra would bring it.

    Raises:
        MissingDependencyError: when the module cannot be imported.
    """
    with warnings.catch_warnings():
        # Local version labels ("2.13.0+cpu") make it warn about the very release it was validated with.
        warnings.filterwarnings("ignore", message="coreai-torch has only been validated")
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise MissingDependencyError(
                f"the Core AI backend needs {module.split('.')[0]!r}, which cannot be imported ({error}); "
                "install it with: pip install 'graphpress[coreai]'"
            ) from error


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

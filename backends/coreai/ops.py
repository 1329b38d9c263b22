"""Core AI's torch operators for compressed tensors, and support for small integers in torch and the converter."""

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
    """Pack the low `bits` bits of uint8 `codes` into a 1-D uint8 stream of ``ceil(bits * size / 8)`` bytes.

    Lowest bits come first; the last byte is padded with zeros.
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
    """Compute ``torch.ops.coreai.quantize`` for every element type, as the runtime does: in float32.

    Torch has no kernels for codes of less than 8 bits, and would round quotients of 16-bit floats to 16 bits.

    Args:
        input: floats.
        scale, zero_point, minval: with one entry, or one per index along `axis`.
        output_dtype: the element type of the codes.
        axis: an axis of `input`.

    Returns:
        The codes; those of less than 8 bits in int8 or uint8.
    """
    dtype = DType.of(output_dtype)
    if has_exact_kernel(dtype, scale.dtype):
        codes: Tensor = torch.ops.coreai.quantize(input, scale, dtype.torch_dtype, zero_point, minval, axis)
        return codes
    along = [1] * input.dim()
    if input.dim():
        along[axis] = -1
    ranked = [None if value is None else value.reshape(along) for value in (zero_point, minval)]
    return reference.quantize(input, scale.reshape(along), *ranked, dtype=dtype)


def has_exact_kernel(codes: DType, scale: torch.dtype) -> bool:
    """Return True if torch evaluates ``coreai.quantize`` as the runtime does, for these codes and scales."""
    return codes.is_dense and (codes.is_floating or scale.itemsize > 2)


OPERATORS = ("lut_to_dense", "constexpr_blockwise_shift_scale", "quantize", "dequantize", "sparse_to_dense")
"""The operators of `torch.ops.coreai` that produce or hold compressed values."""


@cache
def register() -> None:
    """Make `torch.ops.coreai.*` callable, and let the converter accept 3-bit lookup tables.

    Idempotent.

    Raises:
        MissingDependencyError: if `coreai-torch` or `coreai-core` is not installed.
    """

    require("coreai_torch._compression.custom_layers")
    support_three_bits()
    _name_small_integers()


def _name_small_integers() -> None:
    """Give torch's graph printer names for integers below 8 bits.

    Torch 2.13 omits them, and prints every graph that it decomposes if tracing is logged, as under pytest: 4-bit
    activations would then fail with a `KeyError`.
    """
    names = getattr(importlib.import_module("torch.utils._dtype_abbrs"), "dtype_abbrs", {})
    for bits in range(1, 8):
        names.setdefault(getattr(torch, f"int{bits}"), f"i{bits}")
        names.setdefault(getattr(torch, f"uint{bits}"), f"u{bits}")


def require(module: str) -> ModuleType:
    """Import `module` of `coreai_torch` or `coreai`, with an error that names the extra to install.

    Raises:
        MissingDependencyError: if the module cannot be imported.
    """
    with warnings.catch_warnings():
        # Local version labels ("2.13.0+cpu") trigger its warning even for the validated release.
        warnings.filterwarnings("ignore", message="coreai-torch has only been validated")
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise MissingDependencyError(
                f"the Core AI backend needs {module.split('.')[0]!r}, which cannot be imported ({error}); "
                "install it with: pip install 'graphpress[coreai]'"
            ) from error


def support_three_bits() -> None:
    """Replace the converter's class of packed unsigned tensors by one that also packs 3 bits.

    Already packed tensors are passed through, so that one buffer may be used by several operators. Converter releases
    that pack 3 bits, or are built differently, are not changed.
    """
    utils: Any = require("coreai_torch._compression.utils")
    intx = require("coreai_torch._compression._intx")
    packed_class: Any = getattr(utils, "UintxTensor", None)
    if packed_class is None or 3 in packed_class.nbits_to_dtype:
        return

    class UintxTensor(packed_class):
        """The converter's packed unsigned tensor, with 3-bit support."""

        nbits_to_dtype = {**packed_class.nbits_to_dtype, 3: torch.uint3}  # type: ignore[attr-defined]

        def __init__(self, elem: torch.Tensor, tensor_shape: torch.Size, nbits: int) -> None:
            intx.SubbyteTensor.__init__(self, elem, tensor_shape, nbits, signed=False)

        @classmethod
        def from_unpacked(cls, unpacked: torch.Tensor, nbits: int) -> torch.Tensor:
            """Pack codes stored one per byte."""
            if isinstance(unpacked, packed_class):
                return unpacked
            if nbits != 3:
                return packed_class.from_unpacked(unpacked, nbits)
            return cls(pack_three_bits(unpacked), unpacked.shape, nbits)

    utils.UintxTensor = UintxTensor


def pack_three_bits(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes 0 to 7 of any shape into a 1-D uint8 bit stream, 3 bits each, lowest bit first.

    The length is `ceil(3 * numel / 8)`; the last byte is padded with zeros.
    """
    return torch.from_numpy(packed(codes.detach().cpu().to(torch.uint8).numpy(), 3))

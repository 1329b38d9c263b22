"""Quantization to codes of less than 8 bits, for which torch has no kernels: here they are held in 8."""

from __future__ import annotations

import torch
from torch import Tensor

from graphpress.ir import reference
from graphpress.ir.dtypes import DType


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

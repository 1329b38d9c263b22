"""The module that quantizes to codes of less than 8 bits in a finalized model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphpress.backends.coreai.small_codes import quantize
from graphpress.ir.dtypes import DType


class SmallCodes(nn.Module):
    """``coreai.quantize`` to codes that torch has no kernels for. Eager evaluation holds them in 8 bits.

    Args:
        dtype: of the codes.
        axis: along which scales lie.
        has_zero_point, has_minval: whether these are among the arguments.
    """

    def __init__(self, dtype: DType, axis: int, *, has_zero_point: bool, has_minval: bool):
        super().__init__()
        self.dtype = dtype
        self.axis = axis
        self.has_zero_point = has_zero_point
        self.has_minval = has_minval

    def forward(self, input: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        """The codes; `rest` is the zero point and the minimum value, where there are such."""
        arguments = list(rest)
        zero_point = arguments.pop(0) if self.has_zero_point else None
        minval = arguments.pop(0) if self.has_minval else None
        if torch.compiler.is_compiling():
            exported: Tensor = torch.ops.coreai.quantize(
                input, scale, self.dtype.torch_scalar_type, zero_point, minval, self.axis
            )
            return exported
        return quantize(input, scale, self.dtype, zero_point, minval, self.axis)

    def extra_repr(self) -> str:
        """The element type of the codes."""
        return self.dtype.long_name

"""Element types of tensors, including the sub-byte types that the backends store.

Sub-byte integers and float4 have no dense torch dtype; their codes live one per element in a wider *container* (int8 or
uint8), and `DType.bits` says what a saved file pays for each.
"""

from __future__ import annotations

from enum import Enum
from functools import cached_property

import torch

from graphpress.ir.errors import GraphpressError, suggestion


class DTypeError(GraphpressError, ValueError):
    """A name or torch dtype that is not an element type of the IR."""


class DType(Enum):
    """An element type, whose value is its name in the text form (`f32`, `i4`, `f8e4m3fn`, ...)."""

    FLOAT64 = "f64"
    FLOAT32 = "f32"
    FLOAT16 = "f16"
    BFLOAT16 = "bf16"
    FLOAT8_E4M3FN = "f8e4m3fn"
    FLOAT8_E5M2 = "f8e5m2"
    FLOAT8_E8M0FNU = "f8e8m0fnu"
    FLOAT4_E2M1FN = "f4e2m1fn"
    INT64 = "i64"
    INT32 = "i32"
    INT16 = "i16"
    INT8 = "i8"
    INT6 = "i6"
    INT4 = "i4"
    INT3 = "i3"
    INT2 = "i2"
    INT1 = "i1"
    UINT64 = "u64"
    UINT32 = "u32"
    UINT16 = "u16"
    UINT8 = "u8"
    UINT6 = "u6"
    UINT4 = "u4"
    UINT3 = "u3"
    UINT2 = "u2"
    UINT1 = "u1"
    COMPLEX64 = "c64"
    COMPLEX128 = "c128"
    BOOL = "bool"

    @classmethod
    def of(cls, dtype: DType | torch.dtype | str) -> DType:
        """Return the element type for a `DType`, a torch dtype, or a name (`"i4"`, `"int4"`, `"torch.int4"`).

        Raises:
            DTypeError: when nothing of that name exists; the message lists near names.
        """
        if isinstance(dtype, cls):
            return dtype
        if isinstance(dtype, torch.dtype):
            dtype = str(dtype)
        found = _BY_NAME.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else None
        if found is None:
            raise DTypeError(f"no element type {dtype!r}{suggestion(str(dtype), _BY_NAME)}")
        return found

    @cached_property
    def long_name(self) -> str:
        """The torch name without its prefix, such as `float32`, `uint4`, `float8_e4m3fn`."""
        return self.name.lower()

    @cached_property
    def bits(self) -> int:
        """The number of bits per element in a saved file."""
        if self is DType.BOOL:
            return 8
        digits = self.value.lstrip("bfiuc").split("e")[0]
        return int(digits)

    @cached_property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers; False for bool."""
        return self.value[0] in "iu"

    @cached_property
    def is_signed_integer(self) -> bool:
        """True for two's-complement integers."""
        return self.value[0] == "i"

    @cached_property
    def is_floating(self) -> bool:
        """True for every real floating type, including the 8- and 4-bit ones."""
        return self.value[0] == "f" or self is DType.BFLOAT16

    @cached_property
    def minimum(self) -> int | float:
        """The lowest finite value of the type."""
        if self.is_signed_integer:
            return -(2 ** (self.bits - 1))
        if self.is_integer or self is DType.BOOL:
            return 0
        if self is DType.FLOAT8_E8M0FNU:
            return 2.0**-127
        return -self.maximum

    @cached_property
    def maximum(self) -> int | float:
        """The highest finite value of the type."""
        if self.is_signed_integer:
            return 2 ** (self.bits - 1) - 1
        if self.is_integer:
            return 2**self.bits - 1
        if self is DType.BOOL:
            return 1
        if self is DType.FLOAT4_E2M1FN:
            return 6.0
        if self is DType.FLOAT8_E8M0FNU:
            return 2.0**127
        dtype = torch.float32 if self is DType.COMPLEX64 else self.torch_dtype
        return torch.finfo(dtype).max

    @cached_property
    def torch_dtype(self) -> torch.dtype:
        """The dense torch dtype for computation: the type itself, or its container type."""
        if self is DType.FLOAT4_E2M1FN:
            return torch.uint8
        if self.is_integer and self.bits < 8:
            return torch.int8 if self.is_signed_integer else torch.uint8
        return getattr(torch, self.long_name)

    @cached_property
    def torch_scalar_type(self) -> torch.dtype:
        """The torch dtype of the same name, even if torch cannot compute with it (`torch.int4`)."""
        return torch.float4_e2m1fn_x2 if self is DType.FLOAT4_E2M1FN else getattr(torch, self.long_name)

    @cached_property
    def is_dense(self) -> bool:
        """True if torch computes with this type directly, not with codes in a wider container."""
        return self.bits >= 8

    def __repr__(self) -> str:
        return f"DType.{self.name}"


_BY_NAME: dict[str, DType] = {}
for _dtype in DType:
    _BY_NAME[_dtype.value] = _dtype
    _BY_NAME[_dtype.long_name] = _dtype
_BY_NAME |= {
    "float": DType.FLOAT32,
    "half": DType.FLOAT16,
    "double": DType.FLOAT64,
    "float4_e2m1": DType.FLOAT4_E2M1FN,
    "float4_e2m1fn_x2": DType.FLOAT4_E2M1FN,
    "float8_e4m3": DType.FLOAT8_E4M3FN,
}

"""Range analysis for float16: values that it cannot represent, and their propagation.

float16 ends at 65,504, and below 2^-14 it loses precision until 2^-24, its smallest positive value. A value computed
from something beyond either end is *wide*: it stays in float32 until an op brings it back into range.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import Any

import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType

_HALF = torch.finfo(torch.float16)
_SMALLEST_STEP = _HALF.smallest_normal * _HALF.eps
_EXACT_INTEGERS = 2048  # float16 skips larger integers

_BOUNDING = frozenset(
    [
        "softmax",
        "_softmax",
        "sigmoid",
        "hardsigmoid",
        "tanh",
        "hardtanh",
        "relu6",
        "sin",
        "cos",
        "erf",
        "sign",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "argmax",
        "argmin",
        "isnan",
        "isinf",
        "isfinite",
        "logical_and",
        "logical_or",
        "logical_not",
    ]
)
_INVERTING = frozenset(["div", "reciprocal", "rsqrt", "log", "log2", "log10", "log_softmax", "_log_softmax"])
_CREATING = frozenset(["full", "fill", "scalar_tensor", "arange", "linspace", "full_like", "masked_fill", "new_full"])
_SCALED = frozenset(
    ["quantize", "dequantize", "fake_quantize", "blockwise_shift_scale", "constexpr_blockwise_shift_scale"]
)


class Wide(Flag):
    """The ends of the float16 range that a value exceeds."""

    NONE = 0
    LARGE = auto()
    """Above 65,504, or an integer that float16 skips; softmax and other bounded functions bring it back."""
    SMALL = auto()
    """Below the smallest positive float16; division and logarithms bring it back."""


def width_of_constant(value: Value, tensor: torch.Tensor) -> Wide:
    """Return the ends of the range that casting a constant to float16 would exceed.

    Infinities are exact in float16, and small weights may become zero; a scale may not, because everything it scales
    would vanish.
    """
    magnitude = tensor.detach().abs()
    finite = magnitude[magnitude.isfinite()]
    if finite.numel() and finite.max().item() > _HALF.max:
        return Wide.LARGE
    nonzero = finite[finite > 0]
    if nonzero.numel() and _is_scale(value) and nonzero.min().item() < _HALF.smallest_normal:
        return Wide.SMALL
    return Wide.NONE


def width_of_numbers(node: Node) -> Wide:
    """Return the range that the numeric attributes of an elementwise or creating op need."""
    if not (node.op.has(Trait.ELEMENTWISE) or node.op.family in _CREATING):
        return Wide.NONE
    width = Wide.NONE
    for number in _numbers(node.attributes):
        if _HALF.max < abs(number) < float("inf") or (
            node.op.family in ("arange", "linspace") and abs(number) > _EXACT_INTEGERS
        ):
            width |= Wide.LARGE
        elif 0 < abs(number) < _SMALLEST_STEP:
            width |= Wide.SMALL
    return width


def width_after(node: Node, width: Wide) -> Wide:
    """Return the width of the results of `node` for operands of `width`."""
    op = node.op
    is_creating = op.family in _CREATING
    if not (is_creating or op.has(Trait.ELEMENTWISE) or op.has(Trait.VIEW) or op.has(Trait.VALUE_PRESERVING)):
        return Wide.NONE
    if op.family in _BOUNDING:
        width &= ~Wide.LARGE
    if op.family in _INVERTING:
        width &= ~Wide.SMALL
    return width


def _is_scale(value: Value) -> bool:
    users = (use.user for use in value.uses if use.operand == "scale")
    return any(isinstance(user, Node) and user.op.short_name in _SCALED for user in users)


def _numbers(attributes: dict[str, Any]) -> list[float]:
    found = [v for v in attributes.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    return [float(number) for number in found if number == number]


def is_float32(value: Value) -> bool:
    """True for a float32 tensor."""
    return isinstance(value.type, TensorType) and value.type.dtype is DType.FLOAT32

"""Decompositions by which coremltools computes in float16 what torch does.

coremltools takes Python numbers for float32. Beside a float16 tensor it fails, or casts the tensor to float32, with
everything that is computed from it. These decompositions apply where an operand is float16, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphpress.backends.promotion import PROMOTIONS
from graphpress.ir.aten_traits import Trait, families_with

aten = torch.ops.aten


def _is_narrow(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype is torch.float16


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _narrow(number: float) -> torch.Tensor:
    filled: torch.Tensor = aten.full.default([], float(number), dtype=torch.float16)
    return filled


def _with_narrow_numbers(op: Any) -> Callable[..., Any]:
    """Give the numbers beside a float16 tensor its dtype, as torch does."""
    reverses = op.overloadpacket is aten.rsub

    def decomposition(x: Any, y: Any, alpha: Any = 1, **kwargs: Any) -> Any:
        if not (_is_narrow(x) or _is_narrow(y)) or not (_is_number(x) or _is_number(y) or alpha != 1):
            return NotImplemented
        x, y = (_narrow(each) if _is_number(each) else each for each in (x, y))
        if alpha != 1:
            x, y = (aten.mul.Tensor(x, alpha), y) if reverses else (x, aten.mul.Tensor(y, alpha))
        return op.overloadpacket(x, y, **kwargs)

    return decomposition


def _clamp(x: torch.Tensor, low: Any = None, high: Any = None) -> Any:
    """Clamp by a maximum and a minimum."""
    if not _is_narrow(x):
        return NotImplemented
    low, high = (_narrow(each) if _is_number(each) else each for each in (low, high))
    x = x if low is None else aten.maximum.default(x, low)
    return x if high is None else aten.minimum.default(x, high)


def _threshold(x: torch.Tensor, threshold: float, value: float) -> Any:
    return aten.where.self(x > threshold, x, _narrow(value)) if _is_narrow(x) else NotImplemented


def _zeros(size: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return aten.full.default(size, 0.0, dtype=dtype) if dtype is torch.float16 else NotImplemented


def _layer_norm(
    x: torch.Tensor,
    shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    """Scale and shift the normalized values by operators: beside float16 parameters, `eps` would have to be float16."""
    if not _is_narrow(x) or weight is None:
        return NotImplemented
    normal = aten.layer_norm.default(x, shape, None, None, eps) * weight
    return normal if bias is None else normal + bias


def in_float32(op: Any, otherwise: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a decomposition that computes `op` in float32 and rounds the results, or else does what `otherwise` does.

    torch accumulates in float32, too.
    """

    def decomposition(*args: Any, **kwargs: Any) -> Any:
        if not any(map(_is_narrow, pytree.tree_leaves((args, kwargs)))):
            return NotImplemented if otherwise is None else otherwise(*args, **kwargs)
        args, kwargs = pytree.tree_map(lambda x: x.to(torch.float32) if _is_narrow(x) else x, (args, kwargs))
        return pytree.tree_map(lambda x: x.to(torch.float16) if isinstance(x, torch.Tensor) else x, op(*args, **kwargs))

    return decomposition


_ARITHMETIC = {"add", "sub", "mul", "rsub", "pow", "maximum", "minimum", "remainder"}

NARROW: Mapping[Any, Callable[..., Any]] = {
    **{
        op: _with_narrow_numbers(op)
        for op in PROMOTIONS
        if op.overloadpacket.__name__ in _ARITHMETIC | families_with(Trait.COMPARISON)
    },
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: lambda x, high: _clamp(x, None, high),
    aten.hardtanh.default: lambda x, low=-1, high=1: _clamp(x, low, high),
    aten.layer_norm.default: _layer_norm,
    aten.threshold.default: _threshold,
    aten.zeros.default: _zeros,
}
"""By operator; a decomposition returns NotImplemented without a float16 operand."""

WIDE = (
    *(getattr(aten.div, name) for name in ("Tensor", "Scalar", "Tensor_mode", "Scalar_mode")),
    aten.floor_divide.default,
    aten.selu.default,
    aten.log2.default,
    aten.expm1.default,
    aten.batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.linalg_vector_norm.default,
    aten.cosine_similarity.default,
    aten.prelu.default,
    aten.var.dim,
    aten.var.correction,
    aten.std.dim,
    aten.std.correction,
    aten.var_mean.correction,
    aten.std_mean.correction,
)
"""Operators that are computed in float32."""

"""Type promotion and dtype arguments as explicit casts, for converters that follow other rules than torch.

coremltools takes ``zeros_like(mask, dtype=float32)`` for a bool tensor, and Core AI's converter computes an integer
tensor times a Python float in float16. After these decompositions every operand of an elementwise op has the dtype that
torch computes in, and every tensor is created in its own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as KIND
from torch._prims_common import elementwise_dtypes

from graphpress.ir.aten_traits import Trait, families_with

aten = torch.ops.aten


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """A tensor as a tensor of `dtype`; a Python number as the kind of number that `dtype` holds."""
    if isinstance(value, torch.Tensor):
        return value if value.dtype is dtype else aten._to_copy.default(value, dtype=dtype)
    if isinstance(value, bool | int | float):
        return float(value) if dtype.is_floating_point else value
    return value


def _is_operand(value: Any) -> bool:
    return isinstance(value, torch.Tensor | bool | int | float)


def _promoted(op: Any, kind: KIND, operands: slice = slice(None), bools: Any = None) -> Callable[..., Any]:
    """`op` with its `operands` cast to the dtype it computes in; on bools alone, `bools` where that is given."""

    def decomposition(*args: Any, **kwargs: Any) -> Any:
        chosen = [arg for arg in args[operands] if _is_operand(arg)]
        common = elementwise_dtypes(*chosen, type_promotion_kind=KIND.DEFAULT)[1]
        if kind is KIND.INT_TO_FLOAT and kwargs.get("rounding_mode") is None:
            common = elementwise_dtypes(*chosen, type_promotion_kind=kind)[1]
        if common is torch.bool:
            if bools is not None:
                return bools(*args)
            if kind is KIND.ALWAYS_BOOL:
                common = torch.int32
        cast = [_cast(arg, common) if _is_operand(arg) else arg for arg in args[operands]]
        rest = list(args)
        rest[operands] = cast
        if all(map(_is_same, rest, args)):
            return NotImplemented
        return op(*rest, **kwargs)

    return decomposition


def _is_same(new: Any, old: Any) -> bool:
    """True where an argument was not cast; tensors are compared by identity."""
    return new is old or (not isinstance(new, torch.Tensor) and type(new) is type(old) and new == old)


def _reduced(op: Any) -> Callable[..., Any]:
    """A reduction with a dtype, of an operand cast to it first."""

    def decomposition(x: torch.Tensor, *args: Any, dtype: torch.dtype | None = None) -> Any:
        wanted = dtype or (torch.int64 if not (x.is_floating_point() or x.is_complex()) else x.dtype)
        if x.dtype is wanted and dtype is None:
            return NotImplemented
        return op(_cast(x, wanted), *args)

    return decomposition


def _normalized(op: Any) -> Callable[..., Any]:
    """A softmax with a dtype, of an operand cast to it first."""

    def decomposition(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
        return NotImplemented if dtype in (None, x.dtype) else op(_cast(x, dtype), dim)

    return decomposition


def _filled(value: float) -> Callable[..., torch.Tensor]:
    def decomposition(x: torch.Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
        return _full(x.shape, value, dtype or x.dtype)

    return decomposition


def _full(shape: Sequence[Any], value: Any, dtype: torch.dtype) -> torch.Tensor:
    number = float(value) if dtype.is_floating_point else bool(value) if dtype is torch.bool else int(value)
    return aten.full.default(list(shape), number, dtype=dtype)


def _made_of(value: float) -> Callable[..., torch.Tensor]:
    def decomposition(size: Sequence[Any], *, dtype: torch.dtype | None = None, **_: Any) -> Any:
        return _full(size, value, dtype or torch.get_default_dtype())

    return decomposition


def _full_like(x: torch.Tensor, value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return _full(x.shape, value, dtype or x.dtype) if isinstance(value, bool | int | float) else NotImplemented


def _new_filled(value: float) -> Callable[..., torch.Tensor]:
    def decomposition(x: torch.Tensor, size: Sequence[Any], *, dtype: torch.dtype | None = None, **_: Any) -> Any:
        return _full(size, value, dtype or x.dtype)

    return decomposition


def _new_full(x: torch.Tensor, size: Sequence[Any], value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return _full(size, value, dtype or x.dtype) if isinstance(value, bool | int | float) else NotImplemented


_ARITHMETIC = "add sub mul maximum minimum fmod remainder floor_divide pow rsub"
_FLOAT_RESULTS = "sin cos tan asin acos atan sinh cosh exp expm1 log log1p log2 log10 sqrt rsqrt sigmoid tanh erf"
_OF_BOOLS = {"add": aten.logical_or, "mul": aten.logical_and, "maximum": aten.logical_or, "minimum": aten.logical_and}


def _overloads(names: Iterable[str]) -> list[tuple[str, Any]]:
    """The operators of torch with these names, with the names; those that write to an argument are left out."""
    found = [(name, getattr(aten, name)) for name in names]
    return [(name, getattr(packet, each)) for name, packet in found for each in packet.overloads() if "out" not in each]


PROMOTIONS: Mapping[Any, Callable[..., Any]] = {
    **{
        op: _promoted(op, KIND.DEFAULT, bools=_OF_BOOLS.get(name))
        for name, op in _overloads(_ARITHMETIC.split())
        if op._schema.arguments and str(op._schema.arguments[0].type) in ("Tensor", "number", "Scalar")
    },
    **{op: _promoted(op, KIND.ALWAYS_BOOL) for _, op in _overloads(families_with(Trait.COMPARISON))},
    **{op: _promoted(op, KIND.INT_TO_FLOAT, slice(0, 1)) for _, op in _overloads(_FLOAT_RESULTS.split())},
    **{op: _promoted(op, KIND.INT_TO_FLOAT) for _, op in _overloads(["div", "true_divide", "atan2"])},
    aten.where.self: _promoted(aten.where.self, KIND.DEFAULT, slice(1, 3)),
    aten.clamp.default: _promoted(aten.clamp.default, KIND.DEFAULT),
    aten.sum.default: _reduced(aten.sum.default),
    aten.sum.dim_IntList: _reduced(aten.sum.dim_IntList),
    aten.mean.default: _reduced(aten.mean.default),
    aten.mean.dim: _reduced(aten.mean.dim),
    aten.prod.dim_int: _reduced(aten.prod.dim_int),
    aten.cumsum.default: _reduced(aten.cumsum.default),
    aten.softmax.int: _normalized(aten.softmax.int),
    aten.log_softmax.int: _normalized(aten.log_softmax.int),
    aten.zeros.default: _made_of(0),
    aten.ones.default: _made_of(1),
    aten.zeros_like.default: _filled(0),
    aten.ones_like.default: _filled(1),
    aten.full_like.default: _full_like,
    aten.new_zeros.default: _new_filled(0),
    aten.new_ones.default: _new_filled(1),
    aten.new_full.default: _new_full,
}
"""By operator; a decomposition returns NotImplemented where nothing is to be cast."""


def with_promotions(table: Mapping[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """Decompositions by operator that cast operands first, and then do what `table` says about the operator."""

    def both(promote: Callable[..., Any], decompose: Callable[..., Any]) -> Callable[..., Any]:
        def decomposition(*args: Any, **kwargs: Any) -> Any:
            promoted = promote(*args, **kwargs)
            return decompose(*args, **kwargs) if promoted is NotImplemented else promoted

        return decomposition

    return {**PROMOTIONS, **{op: both(PROMOTIONS[op], own) if op in PROMOTIONS else own for op, own in table.items()}}

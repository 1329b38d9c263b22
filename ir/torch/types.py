"""Conversion of torch.export's fake values to IR types and symbols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.types import Dim, OpaqueType, ScalarType, Symbol, SymDim, TensorType, Type

# torch's ranges above this are unbounded.
_UNBOUNDED = 2**62


def type_of(fake: Any) -> Type:
    """Return the type of a fake value: a tensor, a symbolic or plain number, or any other object."""
    if isinstance(fake, torch.Tensor):
        return TensorType(DType.of(fake.dtype), [dim_of(dim) for dim in fake.shape])
    if isinstance(fake, torch.SymInt):
        return ScalarType("int", dim_of(fake))
    if isinstance(fake, torch.SymFloat | torch.SymBool):
        return ScalarType("float" if isinstance(fake, torch.SymFloat) else "bool")
    if isinstance(fake, bool | int | float):
        return ScalarType(type(fake).__name__, int(fake) if isinstance(fake, int) else None)
    return OpaqueType("None" if fake is None else type(fake).__name__)


def dim_of(dim: int | torch.SymInt) -> Dim:
    """Convert a torch dim to an IR dim."""
    if isinstance(dim, int):
        return dim
    expression = dim.node.expr
    return int(expression) if expression.is_number else SymDim(str(expression))


def symbols_of(range_constraints: Mapping[Any, Any], fakes: Iterable[Any]) -> dict[str, Symbol]:
    """Return the symbols in `fakes`, the fake values of a whole graph, with ranges and example values."""
    found: dict[str, Symbol] = {}
    ranges = {str(symbol): limits for symbol, limits in range_constraints.items()}
    for number in _symbolic_numbers(fakes):
        shape_env = number.node.shape_env
        for symbol in number.node.expr.free_symbols:
            name = str(symbol)
            if name not in found:
                limits = ranges.get(name)
                if limits is None:
                    limits = shape_env.var_to_range.get(symbol)
                found[name] = _symbol(limits, _hint(shape_env, symbol))
    return dict(sorted(found.items(), key=lambda item: (item[0][0], len(item[0]), item[0])))


def _symbolic_numbers(fakes: Iterable[Any]) -> Iterable[Any]:
    for fake in fakes:
        if isinstance(fake, torch.Tensor):
            yield from (dim for dim in fake.shape if not isinstance(dim, int))
        elif isinstance(fake, torch.SymInt | torch.SymFloat | torch.SymBool):
            yield fake
        elif isinstance(fake, list | tuple):
            yield from _symbolic_numbers(fake)


def _symbol(limits: Any, hint: int | None) -> Symbol:
    lower = _bound(limits.lower) if limits is not None else None
    upper = _bound(limits.upper) if limits is not None else None
    minimum = lower if lower is not None else 0
    if hint is None:  # a data-dependent size has no example; any value in its range works
        hint = max(minimum, 2) if upper is None else min(max(minimum, 2), upper)
    return Symbol(minimum, upper, hint)


def _bound(limit: Any) -> int | None:
    try:
        value = int(limit)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return value if abs(value) < _UNBOUNDED else None


def _hint(shape_env: Any, symbol: Any) -> int | None:
    values = vars(shape_env).get("backed_var_to_val")
    if values is None:
        values = shape_env.var_to_val
    value = values.get(symbol)
    return None if value is None else int(value)

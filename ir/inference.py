"""Result types of a node, inferred from operand types and attributes.

Torch ops run on meta tensors; symbolic dims are replaced by their example values. Ops with an `infer` function infer
symbolic types themselves. Results are cached, since models repeat their layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value
from graphpress.ir.operand_checks import operand_check
from graphpress.ir.ops import OpDef, Trait
from graphpress.ir.types import ScalarType, Symbol, TensorType, Type, evaluate_dim

_ANSWERS: dict[Any, tuple[Type, ...] | None] = {}


class TypeInferenceError(ValueError):
    """Operands that the op does not accept, with torch's message."""


def infer_types(
    op: OpDef, operands: Mapping[str, Any], attributes: Mapping[str, Any], symbols: Mapping[str, Symbol]
) -> tuple[Type, ...] | None:
    """Return the result types, or None if they depend on data or need symbolic reasoning.

    Raises:
        TypeInferenceError: if the op does not accept such operands.
    """
    if op.infer is not None:
        types = {name: _types(operand) for name, operand in operands.items()}
        return tuple(op.infer(types, attributes))
    if not all(_is_static(operand) for operand in operands.values()):
        return None
    return infer_types_at_hints(op, operands, attributes, symbols)


def infer_types_at_hints(
    op: OpDef, operands: Mapping[str, Any], attributes: Mapping[str, Any], symbols: Mapping[str, Symbol]
) -> tuple[Type, ...] | None:
    """Infer as `infer_types` does, with every symbol at its example value.

    Returns None if the types depend on data.
    """
    if op.target is None or op.has(Trait.OPAQUE) or op.has(Trait.SYMBOLIC) or op.has(Trait.EFFECT):
        return None
    hints = {name: symbol.hint for name, symbol in symbols.items()}
    try:
        bound = {name: _example_type(operand, hints) for name, operand in operands.items()} | dict(attributes)
        key = (op.name, exact(tuple(bound.items())))
        known = key in _ANSWERS
    except (_Unknown, TypeError):
        return None
    if not known:
        _ANSWERS[key] = _ask_torch(op, bound)
    return _ANSWERS[key]


def exact(value: Any) -> Any:
    """Return a cache key for `value` that distinguishes equal values of different types (1, 1.0, True)."""
    kind = type(value)
    if kind is tuple:
        return tuple(map(exact, value))
    return (kind, value) if kind is float or kind is bool else value


class _Unknown(Exception):
    """An operand without an example type."""


def _ask_torch(op: OpDef, bound: Mapping[str, Any]) -> tuple[Type, ...] | None:
    concrete = {name: to_torch(_materialize(value)) for name, value in bound.items()}
    if "device" in concrete or "device" in op.by_name:  # factories would allocate what the file asks for
        concrete["device"] = torch.device("meta")
    concrete.pop("pin_memory", None)
    check = operand_check(op.name)
    fault = None if check is None else check(concrete)
    if fault is not None:
        raise TypeInferenceError(fault)
    args, kwargs = op.unbind(concrete)
    assert op.target is not None
    try:
        with torch.no_grad():
            results = op.target(*args, **kwargs)
    except (NotImplementedError, torch._subclasses.fake_tensor.DataDependentOutputException):
        return None
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        message = str(error).split("\n")[0]
        if "meta" in message.lower():  # an op that needs real data
            return None
        raise TypeInferenceError(message) from error
    flat = list(results) if isinstance(results, list | tuple) else [results]
    return tuple(_type_of(result) for result in flat)


def _type_of(result: Any) -> Type:
    if isinstance(result, torch.Tensor):
        return TensorType.of(result)
    return ScalarType(type(result).__name__, result if isinstance(result, int) else None)


def _types(operand: Any) -> Any:
    if isinstance(operand, Value):
        return operand.type
    return tuple(map(_types, operand)) if isinstance(operand, tuple) else operand


def _is_static(operand: Any) -> bool:
    if isinstance(operand, Value):
        return isinstance(operand.type, TensorType) and operand.type.is_static
    return all(map(_is_static, operand)) if isinstance(operand, tuple) else True


def _example_type(operand: Any, hints: Mapping[str, int]) -> Any:
    """Replace values in `operand` by their static types, or by numbers for symbolic scalars."""
    if isinstance(operand, tuple):
        return tuple(_example_type(item, hints) for item in operand)
    if not isinstance(operand, Value):
        return operand
    match operand.type:
        case TensorType():
            return operand.type.at(hints)
        case ScalarType(value=value) if value is not None:
            return evaluate_dim(value, hints)
    raise _Unknown


def _materialize(value: Any) -> Any:
    if isinstance(value, TensorType):
        return torch.empty(value.shape, dtype=value.dtype.torch_dtype, device="meta")  # type: ignore[arg-type]
    return [_materialize(item) for item in value] if isinstance(value, tuple) else value


def to_torch(value: Any) -> Any:
    """Convert an attribute or operand to torch's form: `DType` to torch dtype, tuples to lists."""
    if isinstance(value, DType):
        return value.torch_scalar_type
    if isinstance(value, tuple | list):
        return [to_torch(item) for item in value]
    return value


__all__ = ["TypeInferenceError", "exact", "infer_types", "infer_types_at_hints", "to_torch"]

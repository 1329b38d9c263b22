"""Result types of a node, from the types of its operands and its attributes.

Ops of torch are asked through meta tensors, which have shapes and no data; a type with symbolic extents is asked at
the symbols' example values. Ops with an `infer` of their own answer symbolically. Answers are kept, since models
repeat their layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value
from graphpress.ir.ops import OpDef, Trait
from graphpress.ir.types import ScalarType, Symbol, TensorType, Type, evaluate_dim

_ANSWERS: dict[Any, tuple[Type, ...] | None] = {}


class TypeInferenceError(ValueError):
    """The operands do not fit the op; the message is torch's."""


def infer_types(
    op: OpDef, operands: Mapping[str, Any], attributes: Mapping[str, Any], symbols: Mapping[str, Symbol]
) -> tuple[Type, ...] | None:
    """The types of the results; None when they cannot be known without data or need symbolic reasoning.

    Raises:
        TypeInferenceError: when the op refuses such operands.
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
    """As `infer_types`, with every symbol at its example value; None when that cannot be known without data."""
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
    """`value` as a key: equal only where it is of one type, too, as 1, 1.0 and True are not."""
    kind = type(value)
    if kind is tuple:
        return tuple(map(exact, value))
    return (kind, value) if kind is float or kind is bool else value


class _Unknown(Exception):
    """Some operand has no example."""


def _ask_torch(op: OpDef, bound: Mapping[str, Any]) -> tuple[Type, ...] | None:
    concrete = {name: to_torch(_materialize(value)) for name, value in bound.items()}
    if "device" in concrete:
        concrete["device"] = torch.device("meta")
    args, kwargs = op.unbind(concrete)
    assert op.target is not None
    try:
        with torch.no_grad():
            results = op.target(*args, **kwargs)
    except (NotImplementedError, torch._subclasses.fake_tensor.DataDependentOutputException):
        return None
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        message = str(error).split("\n")[0]
        if "meta" in message.lower():  # an op that only real data can answer
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
    """`operand` with values replaced by their static type, or by a number for a symbolic scalar."""
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
    """An attribute or operand as torch takes it: `DType` as torch dtype, tuples as lists."""
    if isinstance(value, DType):
        return value.torch_scalar_type
    if isinstance(value, tuple | list):
        return [to_torch(item) for item in value]
    return value


__all__ = ["TypeInferenceError", "exact", "infer_types", "infer_types_at_hints", "to_torch"]

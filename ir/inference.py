"""Result types of a node, inferred from operand types and attributes.

Torch ops run on meta tensors; symbolic dims are replaced by their example values. Ops with an `infer` function infer
symbolic types themselves, and those of elementwise ops follow from broadcasting. Results are cached, since models
repeat their layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import NoneType
from typing import Any

import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Value
from graphpress.ir.operand_checks import operand_check
from graphpress.ir.ops import OpDef, Trait
from graphpress.ir.types import Dim, DimError, ScalarType, Symbol, TensorType, Type, evaluate_dim

_ANSWERS: dict[Any, tuple[Type, ...] | None] = {}
_UNASKED: Any = object()
_PLAIN = frozenset({int, str, NoneType})  # types of which equal values are the same
_MOST_RESULTS = 2**16
_REFUSALS = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    GraphpressError,
)


class TypeInferenceError(GraphpressError, ValueError):
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
        try:
            return tuple(op.infer(types, attributes))
        except TypeInferenceError:
            raise
        except _REFUSALS as error:
            raise TypeInferenceError(_first_line(error)) from error
    for operand in operands.values():
        if not _is_static(operand):
            return _infer_elementwise(op, operands, attributes, symbols) if op.has(Trait.ELEMENTWISE) else None
    return infer_types_at_hints(op, operands, attributes, symbols)


def _infer_elementwise(
    op: OpDef, operands: Mapping[str, Any], attributes: Mapping[str, Any], symbols: Mapping[str, Symbol]
) -> tuple[Type, ...] | None:
    """Return the result type with broadcast symbolic dims; None if the dims cannot be compared."""
    at_hints = infer_types_at_hints(op, operands, attributes, symbols)
    if at_hints is None or len(at_hints) != 1 or not isinstance(at_hints[0], TensorType):
        return None
    shapes = [
        value.type.shape
        for value in operands.values()
        if isinstance(value, Value) and isinstance(value.type, TensorType)
    ]
    shape = _broadcast(shapes)
    if shape is None:
        return None
    made = TensorType(at_hints[0].dtype, shape)
    return (made,) if made.at(_Hints(symbols)) == at_hints[0] else None


def _broadcast(shapes: list[tuple[Dim, ...]]) -> tuple[Dim, ...] | None:
    """Return the common shape; None if two dims at one place differ and neither is 1."""
    rank = max(map(len, shapes), default=0)
    found: list[Dim] = []
    for place in range(-rank, 0):
        dims = {shape[place] for shape in shapes if len(shape) >= -place} - {1}
        if len(dims) > 1:
            return None
        found.append(dims.pop() if dims else 1)
    return tuple(found)


def infer_types_at_hints(
    op: OpDef, operands: Mapping[str, Any], attributes: Mapping[str, Any], symbols: Mapping[str, Symbol]
) -> tuple[Type, ...] | None:
    """Infer as `infer_types` does, with every symbol at its example value.

    Returns None if the types depend on data.

    Raises:
        TypeInferenceError: if the op does not accept such operands.
    """
    if not _runs_on_meta_tensors(op):
        return None
    hints = _Hints(symbols)
    key: list[Any] = [op.name]  # then names and values in turn: pairs would be one more object for each
    try:
        for name, operand in operands.items():
            key += name, exact(_example_type(operand, hints))
        for name, value in attributes.items():
            key += name, value if type(value) in _PLAIN else exact(value)
        known = _ANSWERS.get(tuple(key), _UNASKED)
    except (_Unknown, TypeError):
        return None
    except DimError as error:
        raise TypeInferenceError(str(error)) from error
    if known is not _UNASKED:
        return known
    bound = {name: _example_type(operand, hints) for name, operand in operands.items()} | dict(attributes)
    answer = _ANSWERS[tuple(key)] = _ask_torch(op, bound)
    return answer


def infer_element_types(
    op: OpDef, operands: Mapping[str, Any], attributes: Mapping[str, Any], symbols: Mapping[str, Symbol]
) -> tuple[Type, ...] | None:
    """Infer by the rule of the op if it has one, else with every symbol at its example value, whatever the op.

    Returns None if the types depend on data.

    Raises:
        TypeInferenceError: if the op does not accept such operands.
    """
    infer = infer_types_at_hints if op.infer is None else infer_types
    return infer(op, operands, attributes, symbols)


@cache
def _runs_on_meta_tensors(op: OpDef) -> bool:
    return op.target is not None and op.traits.isdisjoint((Trait.OPAQUE, Trait.SYMBOLIC, Trait.EFFECT))


def exact(value: Any) -> Any:
    """Return a cache key for `value` that distinguishes equal values of different types (1, 1.0, True)."""
    kind = type(value)
    if kind is TensorType:
        return value
    if kind is tuple:
        return tuple([exact(item) for item in value])
    return (kind, value) if kind is float or kind is bool else value


class _Unknown(Exception):
    """An operand without an example type."""


class _Hints(Mapping[str, int]):
    """The example values of symbols. A dictionary would take the time of all symbols for each node."""

    __slots__ = ("_symbols",)

    def __init__(self, symbols: Mapping[str, Symbol]):
        self._symbols = symbols

    def __getitem__(self, name: str) -> int:
        return self._symbols[name].hint

    def __iter__(self) -> Iterator[str]:
        return iter(self._symbols)

    def __len__(self) -> int:
        return len(self._symbols)


def _ask_torch(op: OpDef, bound: Mapping[str, Any]) -> tuple[Type, ...] | None:
    count = result_count(op, bound)
    if count is not None and count > _MOST_RESULTS:
        raise TypeInferenceError(f"it gives {count} results; accepted: {_MOST_RESULTS}")
    assert op.target is not None
    try:
        concrete = {name: to_torch(_materialize(value)) for name, value in bound.items()}
        if "device" in concrete or "device" in op.by_name:  # factories would allocate what the file asks for
            concrete["device"] = torch.device("meta")
        concrete.pop("pin_memory", None)
        check = operand_check(op.name)
        fault = None if check is None else check(concrete)
        if fault is not None:
            raise TypeInferenceError(fault)
        args, kwargs = op.unbind(concrete)
        with torch.no_grad():
            results = op.target(*args, **kwargs)
    except (NotImplementedError, torch._subclasses.fake_tensor.DataDependentOutputException):
        return None
    except TypeInferenceError:
        raise
    except _REFUSALS as error:
        message = _first_line(error)
        if "meta" in message.lower():  # an op that needs real data
            return None
        raise TypeInferenceError(message) from error
    flat = list(results) if isinstance(results, list | tuple) else [results]
    return tuple(_type_of(result) for result in flat)


def result_count(op: OpDef, operands: Mapping[str, Any]) -> int | None:
    """Return how many results an op that splits an axis gives, without making them; None for other ops.

    Args:
        op: any op.
        operands: values or types, and attributes, by parameter name. Operands that the op does not accept give None.
    """
    rule = _COUNTS.get(op.short_name) if op.dialect == "aten" else None
    given = operands.get("self")
    type = given.type if isinstance(given, Value) else given
    axis = operands.get("dim", 0)
    if rule is None or not isinstance(type, TensorType) or not isinstance(axis, int):
        return None
    if not -type.rank <= axis < type.rank or not isinstance(length := type.shape[axis], int) or length < 0:
        return None
    name, count = rule
    parts = operands.get(name) if name else 1
    return count(length, parts) if isinstance(parts, int) and parts > 0 else None


def _pieces(length: int, size: int) -> int:
    return max(-(-length // size), 1)


_Count = tuple[str, Callable[[int, int], int]]
_UNBOUND: _Count = "", lambda length, _: length
_SPLIT: _Count = "split_size", _pieces
_CHUNKS: _Count = "chunks", lambda length, parts: _pieces(length, -(-length // parts)) if length else parts
_SECTIONS: _Count = "sections", lambda _, parts: parts
_COUNTS: dict[str, _Count] = {
    **dict.fromkeys(("unbind", "unbind_copy"), _UNBOUND),
    **dict.fromkeys(("split", "split_copy", "unsafe_split"), _SPLIT),
    **dict.fromkeys(("chunk", "unsafe_chunk"), _CHUNKS),
    **dict.fromkeys(("tensor_split", "hsplit", "vsplit", "dsplit"), _SECTIONS),
}


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__


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
    if isinstance(operand, Value):
        type = operand.type
        if isinstance(type, TensorType):
            return type if type.is_static else type.at(hints)
    elif isinstance(operand, tuple):
        return tuple([_example_type(item, hints) for item in operand])
    else:
        return operand
    if isinstance(type, ScalarType) and type.value is not None:
        return evaluate_dim(type.value, hints)
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


__all__ = ["TypeInferenceError", "exact", "infer_types", "infer_types_at_hints", "result_count", "to_torch"]

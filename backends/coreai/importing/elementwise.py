"""Import of elementwise ops and reductions."""

from __future__ import annotations

from typing import Any

from graphpress.backends.coreai.importing.reader import (
    AssetReader,
    Read,
    StoredConstant,
    short_name,
    tensor_type,
    translates,
)
from graphpress.backends.importing.layers import REDUCTIONS
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value

_SAME = (
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cos",
    "cosh",
    "erf",
    "exp",
    "log",
    "relu",
    "round",
    "rsqrt",
    "sigmoid",
    "silu",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
)
_UNARY = {**{name: name for name in _SAME}, "not": "logical_not"}
_BINARY = {
    "add": "add.Tensor",
    "sub": "sub.Tensor",
    "mul": "mul.Tensor",
    "divide": "div.Tensor",
    "maximum": "maximum",
    "minimum": "minimum",
    "modulo": "remainder.Tensor",
    "equal": "eq.Tensor",
    "not_equal": "ne.Tensor",
    "greater": "gt.Tensor",
    "and": "logical_and",
    "or": "logical_or",
    "xor": "logical_xor",
    "bitwise_and": "bitwise_and.Tensor",
    "bitwise_or": "bitwise_or.Tensor",
    "bitwise_xor": "bitwise_xor.Tensor",
}
_SCANS = {0: "cumsum", 1: "cumprod"}  # the dialect's combiner numbers


@translates(*_UNARY)
def _unary(reader: AssetReader, op: Any) -> Value:
    return reader.emit(f"aten.{_UNARY[short_name(op)]}", self=reader.value(op.operands[0]))


@translates(*_BINARY)
def _binary(reader: AssetReader, op: Any) -> Value | None:
    x, y = (reader.value(each) for each in op.operands)
    name, dtype = short_name(op), tensor_type(op.results[0].type).dtype
    if name == "divide" and dtype.is_integer:
        made = reader.emit("aten.div.Tensor_mode", {"rounding_mode": "trunc"}, self=x, other=y)
    else:
        made = reader.emit(f"aten.{_BINARY[name]}", self=x, other=y)
    return reader.cast(made, dtype)


@translates("pow")
def _pow(reader: AssetReader, op: Any) -> Value:
    x, exponent = (reader.value(each) for each in op.operands)
    return reader.emit("aten.pow.Tensor_Tensor", self=x, exponent=exponent)


@translates("floor_divide")
def _floor_divide(reader: AssetReader, op: Any) -> Value:
    x, y = (reader.value(each) for each in op.operands)
    return reader.emit("aten.div.Tensor_mode", {"rounding_mode": "floor"}, self=x, other=y)


@translates("where")
def _where(reader: AssetReader, op: Any) -> Value:
    condition, x, y = (reader.value(each) for each in op.operands)
    return reader.emit("aten.where.self", condition=condition, self=x, other=y)


@translates("cast")
def _cast(reader: AssetReader, op: Any) -> Read:
    found, dtype = reader.known[op.operands[0]], tensor_type(op.results[0].type).dtype
    if isinstance(found, StoredConstant) and found.dtype.is_integer and dtype.is_integer:
        return StoredConstant(found.tensor.to(dtype.torch_dtype), dtype)
    return reader.cast(reader.value(op.operands[0]), dtype)


@translates(*REDUCTIONS)
def _reduction(reader: AssetReader, op: Any) -> Value | None:
    x, axes = op.operands
    dims = reader.number(axes)
    if dims is None:
        return None
    attributes = {"dim": tuple(dims), "keepdim": True}
    made = reader.emit(f"aten.{REDUCTIONS[short_name(op)]}", attributes, self=reader.value(x))
    return reader.cast(made, tensor_type(op.results[0].type).dtype)


@translates("reduce_product")
def _product(reader: AssetReader, op: Any) -> Value | None:
    x, axes = op.operands
    dims = reader.number(axes)
    if dims is None:
        return None
    made = reader.value(x)
    for dim in dims:
        made = reader.emit("aten.prod.dim_int", {"dim": dim, "keepdim": True}, self=made)
    return reader.cast(made, tensor_type(op.results[0].type).dtype)


@translates("argmax")
def _argmax(reader: AssetReader, op: Any) -> Value | None:
    axis = reader.number(op.operands[1])
    if axis is None:
        return None
    made = reader.emit("aten.argmax", {"dim": axis, "keepdim": True}, self=reader.value(op.operands[0]))
    return reader.cast(made, DType.INT32)


@translates("scan")
def _scan(reader: AssetReader, op: Any) -> Value | None:
    x, axis, backwards = reader.value(op.operands[0]), reader.number(op.operands[1]), reader.number(op.operands[2])
    name = _SCANS.get(int(op.attributes["scan_op"].value))
    if name is None or axis is None or backwards is None:
        return None
    if backwards:
        x = reader.emit("aten.flip", {"dims": (axis,)}, self=x)
    made = reader.cast(reader.emit(f"aten.{name}", {"dim": axis}, self=x), x.tensor_type.dtype)
    return reader.emit("aten.flip", {"dims": (axis,)}, self=made) if backwards else made


@translates("sort", "argsort")
def _sort(reader: AssetReader, op: Any) -> Value | None:
    x, dim, descending, stable = op.operands
    numbers = [reader.number(each) for each in (dim, descending, stable)]
    if None in numbers:
        return None
    attributes = {"stable": bool(numbers[2]), "dim": numbers[0], "descending": bool(numbers[1])}
    values, places = reader.emit_all("aten.sort.stable", attributes, self=reader.value(x))
    return values if short_name(op) == "sort" else reader.cast(places, DType.INT32)

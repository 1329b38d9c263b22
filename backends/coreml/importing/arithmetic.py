"""Import of MIL's elementwise ops and reductions."""

from __future__ import annotations

import math
from typing import Any

from graphpress.backends.coreml.importing.reader import MilReader, number, translates
from graphpress.backends.importing.layers import REDUCTIONS
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value

_UNARY = {
    "abs": "abs",
    "acos": "acos",
    "asin": "asin",
    "atan": "atan",
    "atanh": "atanh",
    "ceil": "ceil",
    "cos": "cos",
    "cosh": "cosh",
    "erf": "erf",
    "exp": "exp",
    "exp2": "exp2",
    "floor": "floor",
    "relu": "relu",
    "relu6": "relu6",
    "round": "round",
    "sigmoid": "sigmoid",
    "sign": "sign",
    "silu": "silu",
    "sin": "sin",
    "sinh": "sinh",
    "sqrt": "sqrt",
    "square": "square",
    "tan": "tan",
    "tanh": "tanh",
    "logical_not": "logical_not",
    "softplus": "softplus",
}
_BINARY = {
    "add": "add.Tensor",
    "sub": "sub.Tensor",
    "mul": "mul.Tensor",
    "real_div": "div.Tensor",
    "maximum": "maximum",
    "minimum": "minimum",
    "pow": "pow.Tensor_Tensor",
    "mod": "remainder.Tensor",
    "equal": "eq.Tensor",
    "not_equal": "ne.Tensor",
    "greater": "gt.Tensor",
    "greater_equal": "ge.Tensor",
    "less": "lt.Tensor",
    "less_equal": "le.Tensor",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    "logical_xor": "logical_xor",
}
_CASTS = {"fp16": DType.FLOAT16, "fp32": DType.FLOAT32, "bool": DType.BOOL}


@translates(*_UNARY)
def _unary(reader: MilReader, op: Any) -> Value:
    return reader.emit(f"aten.{_UNARY[op.op_type]}", self=reader.value(op.x))


@translates(*_BINARY)
def _binary(reader: MilReader, op: Any) -> Value:
    x, y = reader.value(op.x), reader.value(op.y)
    if op.op_type in ("maximum", "minimum", "logical_and", "logical_or", "logical_xor", "pow"):
        second = "exponent" if op.op_type == "pow" else "other"
        return reader.emit(f"aten.{_BINARY[op.op_type]}", **{"self": x, second: y})
    return reader.emit(f"aten.{_BINARY[op.op_type]}", self=x, other=y)


@translates("floor_div")
def _floor_div(reader: MilReader, op: Any) -> Value:
    return reader.emit(
        "aten.div.Tensor_mode", {"rounding_mode": "floor"}, self=reader.value(op.x), other=reader.value(op.y)
    )


@translates("log", "inverse", "rsqrt")
def _guarded(reader: MilReader, op: Any) -> Value:
    x, epsilon = reader.value(op.x), number(op.epsilon, 0.0)
    if epsilon:
        x = reader.emit("aten.add.Scalar", {"other": epsilon}, self=x)
    name = {"log": "log", "inverse": "reciprocal", "rsqrt": "rsqrt"}[op.op_type]
    return reader.emit(f"aten.{name}", self=x)


@translates("gelu")
def _gelu(reader: MilReader, op: Any) -> Value:
    mode = number(op.mode, "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        x = reader.value(op.x)
        gate = reader.emit("aten.sigmoid", self=reader.emit("aten.mul.Scalar", {"other": 1.702}, self=x))
        return reader.emit("aten.mul.Tensor", self=x, other=gate)
    approximate = {"approximate": "tanh"} if mode == "TANH_APPROXIMATION" else {}
    return reader.emit("aten.gelu", approximate, self=reader.value(op.x))


@translates("leaky_relu", "elu")
def _sloped(reader: MilReader, op: Any) -> Value:
    alpha = number(op.alpha)
    attributes = {"negative_slope": alpha} if op.op_type == "leaky_relu" else {"alpha": alpha}
    return reader.emit(f"aten.{op.op_type}", attributes, self=reader.value(op.x))


@translates("prelu")
def _prelu(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.prelu", self=reader.value(op.x), weight=reader.value(op.alpha))


@translates("sigmoid_hard")
def _sigmoid_hard(reader: MilReader, op: Any) -> Value:
    scaled = reader.emit("aten.mul.Scalar", {"other": number(op.alpha)}, self=reader.value(op.x))
    shifted = reader.emit("aten.add.Scalar", {"other": number(op.beta)}, self=scaled)
    return reader.emit("aten.clamp", {"min": 0, "max": 1}, self=shifted)


@translates("linear_activation")
def _linear_activation(reader: MilReader, op: Any) -> Value:
    scaled = reader.emit("aten.mul.Scalar", {"other": number(op.alpha)}, self=reader.value(op.x))
    return reader.emit("aten.add.Scalar", {"other": number(op.beta, 0.0)}, self=scaled)


@translates("thresholded_relu")
def _thresholded_relu(reader: MilReader, op: Any) -> Value:
    x = reader.value(op.x)
    kept = reader.emit("aten.ge.Scalar", {"other": number(op.alpha)}, self=x)
    return reader.emit("aten.mul.Tensor", self=x, other=kept)


@translates("clamped_relu")
def _clamped_relu(reader: MilReader, op: Any) -> Value:
    sloped = reader.emit("aten.leaky_relu", {"negative_slope": number(op.alpha)}, self=reader.value(op.x))
    return reader.emit("aten.clamp_max", {"max": number(op.beta)}, self=sloped)


@translates("threshold")
def _threshold(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.clamp_min", {"min": number(op.alpha)}, self=reader.value(op.x))


@translates("softsign")
def _softsign(reader: MilReader, op: Any) -> Value:
    x = reader.value(op.x)
    below = reader.emit("aten.add.Scalar", {"other": 1}, self=reader.emit("aten.abs", self=x))
    return reader.emit("aten.div.Tensor", self=x, other=below)


@translates("clip")
def _clip(reader: MilReader, op: Any) -> Value:
    low, high = number(op.alpha), number(op.beta)
    finite = {name: bound for name, bound in (("min", low), ("max", high)) if math.isfinite(bound)}
    return reader.emit("aten.clamp", finite, self=reader.value(op.x))


@translates("select")
def _select(reader: MilReader, op: Any) -> Value:
    return reader.emit(
        "aten.where.self", condition=reader.value(op.cond), self=reader.value(op.a), other=reader.value(op.b)
    )


@translates("cast")
def _cast(reader: MilReader, op: Any) -> Value:
    name = number(op.dtype)
    return reader.emit("aten._to_copy", {"dtype": _CASTS.get(name) or DType.of(name)}, self=reader.value(op.x))


@translates("identity")
def _identity(reader: MilReader, op: Any) -> Value:
    return reader.value(op.x)


@translates(*REDUCTIONS)
def _reduction(reader: MilReader, op: Any) -> Value:
    x = reader.value(op.x)
    axes = number(op.axes)
    attributes = {"dim": tuple(range(x.tensor_type.rank)) if axes is None else tuple(axes)}
    made = reader.emit(f"aten.{REDUCTIONS[op.op_type]}", attributes | {"keepdim": number(op.keep_dims)}, self=x)
    return reader.cast(made, x.tensor_type.dtype)


@translates("reduce_sum_square", "reduce_l2_norm", "reduce_l1_norm", "reduce_log_sum_exp")
def _composed_reduction(reader: MilReader, op: Any) -> Value:
    x, axes = reader.value(op.x), number(op.axes)
    attributes = {
        "dim": tuple(range(x.tensor_type.rank)) if axes is None else tuple(axes),
        "keepdim": number(op.keep_dims),
    }
    if op.op_type == "reduce_log_sum_exp":
        return reader.emit("aten.logsumexp", attributes, self=x)
    inner = reader.emit("aten.abs" if op.op_type == "reduce_l1_norm" else "aten.square", self=x)
    total = reader.emit("aten.sum.dim_IntList", attributes, self=inner)
    return reader.emit("aten.sqrt", self=total) if op.op_type == "reduce_l2_norm" else total


@translates("reduce_argmax", "reduce_argmin")
def _position(reader: MilReader, op: Any) -> Value:
    name = op.op_type.removeprefix("reduce_")
    attributes = {"dim": number(op.axis), "keepdim": number(op.keep_dims)}
    return reader.cast(reader.emit(f"aten.{name}", attributes, self=reader.value(op.x)), DType.INT32)


@translates("softmax")
def _softmax(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.softmax.int", {"dim": number(op.axis)}, self=reader.value(op.x))


@translates("cumsum")
def _cumsum(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    if number(op.exclusive, False) or number(op.reverse, False):
        return reader.opaque(op)
    x = reader.value(op.x)
    return reader.cast(reader.emit("aten.cumsum", {"dim": number(op.axis)}, self=x), x.tensor_type.dtype)


@translates("topk")
def _topk(reader: MilReader, op: Any) -> tuple[Value, ...]:
    attributes = {"k": number(op.k), "dim": number(op.axis), "largest": not number(op.ascending)}
    found, places = reader.emit_all("aten.topk", attributes, self=reader.value(op.x))
    return found, reader.cast(places, DType.INT32)

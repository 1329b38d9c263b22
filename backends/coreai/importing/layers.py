"""Layers of an asset: convolutions, products, pools."""

from __future__ import annotations

from typing import Any

from graphpress.backends.coreai.importing.reader import AssetReader, short_name, translates, word
from graphpress.ir.graph import Value


@translates("conv2d", "conv3d")
def _conv(reader: AssetReader, op: Any) -> Value | None:
    x, weight, stride, dilation, groups = op.operands
    numbers = [reader.number(each) for each in (stride, dilation, groups)]
    return None if None in numbers else _convolution(reader, x, weight, *numbers)


@translates("conv_transpose2d", "conv_transpose3d")
def _conv_transpose(reader: AssetReader, op: Any) -> Value | None:
    x, weight, stride, padding, dilation, extra, groups = op.operands
    numbers = [reader.number(each) for each in (stride, dilation, groups, padding, extra)]
    return None if None in numbers else _convolution(reader, x, weight, *numbers)


def _convolution(
    reader: AssetReader,
    x: Any,
    weight: Any,
    stride: list[int],
    dilation: list[int],
    groups: int,
    padding: list[int] | None = None,
    output_padding: list[int] | None = None,
) -> Value:
    none = (0,) * len(stride)
    attributes = {
        "stride": tuple(stride),
        "padding": tuple(padding or none),
        "dilation": tuple(dilation),
        "transposed": padding is not None,
        "output_padding": tuple(output_padding or none),
        "groups": groups,
        "bias": None,
    }
    return reader.emit("aten.convolution", attributes, input=reader.value(x), weight=reader.value(weight))


@translates("batch_matmul")
def _matmul(reader: AssetReader, op: Any) -> Value:
    x, y = op.operands
    return reader.emit("aten.matmul", self=reader.value(x), other=reader.value(y))


@translates("max_pool_2d", "max_pool_3d", "sum_pool_2d", "sum_pool_3d")
def _pool(reader: AssetReader, op: Any) -> Value | None:
    x, *operands = op.operands
    numbers = [reader.number(each) for each in operands]
    if None in numbers:
        return None
    kernel, stride, dilation = numbers[:3]
    axes = f"{len(kernel)}d"
    attributes: dict[str, Any] = {"kernel_size": tuple(kernel), "stride": tuple(stride)}
    if short_name(op).startswith("max"):
        attributes |= {"dilation": tuple(dilation), "ceil_mode": bool(numbers[3])}
        return reader.emit(f"aten.max_pool{axes}", attributes, self=reader.value(x))
    if any(step != 1 for step in dilation):
        return None
    return reader.emit(f"aten.avg_pool{axes}", attributes | {"divisor_override": 1}, self=reader.value(x))


@translates("softmax")
def _softmax(reader: AssetReader, op: Any) -> Value | None:
    axis = reader.number(op.operands[1])
    return None if axis is None else reader.emit("aten.softmax.int", {"dim": axis}, self=reader.value(op.operands[0]))


@translates("gelu")
def _gelu(reader: AssetReader, op: Any) -> Value:
    how = {"approximate": "tanh"} if word(op, "approximate") == "tanh" else {}
    return reader.emit("aten.gelu", how, self=reader.value(op.operands[0]))

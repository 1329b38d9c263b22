"""Import of convolutions, products and pools."""

from __future__ import annotations

from typing import Any

from graphpress.backends.coreai.importing.reader import AssetReader, short_name, translates, word
from graphpress.backends.importing.layers import convolution, product
from graphpress.ir.graph import Value


@translates("conv2d", "conv3d")
def _conv(reader: AssetReader, op: Any) -> Value | None:
    x, weight, *operands = op.operands
    numbers = [reader.number(each) for each in operands]
    if None in numbers:
        return None
    stride, dilation, groups = numbers
    return convolution(
        reader,
        reader.value(x),
        reader.value(weight),
        None,
        stride=stride,
        padding=(0,) * len(stride),
        dilation=dilation,
        groups=groups,
    )


@translates("conv_transpose2d", "conv_transpose3d")
def _conv_transpose(reader: AssetReader, op: Any) -> Value | None:
    x, weight, *operands = op.operands
    numbers = [reader.number(each) for each in operands]
    if None in numbers:
        return None
    stride, padding, dilation, output_padding, groups = numbers
    return convolution(
        reader,
        reader.value(x),
        reader.value(weight),
        None,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        output_padding=output_padding,
    )


@translates("batch_matmul")
def _matmul(reader: AssetReader, op: Any) -> Value:
    x, y = op.operands
    return product(reader, reader.value(x), reader.value(y))


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

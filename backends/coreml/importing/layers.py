"""Import of MIL's convolutions, products, pools and norms."""

from __future__ import annotations

import math
from typing import Any

from graphpress.backends.coreml.importing.reader import MilReader, number, translates
from graphpress.backends.importing.layers import convolution, padded, product
from graphpress.ir.graph import Value


@translates("conv")
def _conv(reader: MilReader, op: Any) -> Value:
    spatial = len(op.x.shape) - 2
    strides, dilations = number(op.strides, [1] * spatial), number(op.dilations, [1] * spatial)
    kernel = [int(n) for n in op.weight.shape[2:]]
    pairs = _padding(op, spatial, kernel, strides, dilations)
    x, padding = _padded(reader, reader.value(op.x), pairs)
    return convolution(
        reader,
        x,
        reader.value(op.weight),
        _bias(reader, op),
        stride=strides,
        padding=padding,
        dilation=dilations,
        groups=number(op.groups, 1),
    )


@translates("conv_transpose")
def _conv_transpose(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    spatial = len(op.x.shape) - 2
    strides, dilations = number(op.strides, [1] * spatial), number(op.dilations, [1] * spatial)
    kernel = [int(n) for n in op.weight.shape[2:]]
    flat = number(op.pad, [0] * 2 * spatial)
    wanted = [int(n) for n in op.outputs[0].shape[2:]]
    if number(op.pad_type, "valid") not in ("custom", "valid") or flat[::2] != flat[1::2]:
        return reader.opaque(op)
    padding = flat[::2] if number(op.pad_type, "valid") == "custom" else [0] * spatial
    extra = [
        wanted[at]
        - ((int(op.x.shape[2 + at]) - 1) * strides[at] - 2 * padding[at] + dilations[at] * (kernel[at] - 1) + 1)
        for at in range(spatial)
    ]
    return convolution(
        reader,
        reader.value(op.x),
        reader.value(op.weight),
        _bias(reader, op),
        stride=strides,
        padding=padding,
        dilation=dilations,
        groups=number(op.groups, 1),
        output_padding=extra,
    )


@translates("linear")
def _linear(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.linear", input=reader.value(op.x), weight=reader.value(op.weight), bias=_bias(reader, op))


@translates("matmul")
def _matmul(reader: MilReader, op: Any) -> Value:
    x, y = reader.value(op.x), reader.value(op.y)
    if number(op.transpose_x, False):
        x = reader.emit("aten.transpose.int", {"dim0": -2, "dim1": -1}, self=x)
    if number(op.transpose_y, False):
        y = reader.emit("aten.transpose.int", {"dim0": -2, "dim1": -1}, self=y)
    return product(reader, x, y)


@translates("einsum")
def _einsum(reader: MilReader, op: Any) -> Value:
    tensors = tuple(reader.value(v) for v in op.values)
    return reader.emit("aten.einsum", {"equation": number(op.equation)}, tensors=tensors)


@translates("scaled_dot_product_attention")
def _attention(reader: MilReader, op: Any) -> Value:
    mask = {} if op.attn_mask is None else {"attn_mask": reader.value(op.attn_mask)}
    return reader.emit(
        "aten.scaled_dot_product_attention",
        query=reader.value(op.query),
        key=reader.value(op.key),
        value=reader.value(op.value),
        **mask,
    )


@translates("max_pool", "avg_pool")
def _pool(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    kernel = number(op.kernel_sizes)
    spatial = len(kernel)
    strides = number(op.strides, [1] * spatial)
    pairs = _padding(op, spatial, kernel, strides, [1] * spatial)
    if any(before != after for before, after in pairs):
        return reader.opaque(op)
    attributes = {
        "kernel_size": tuple(kernel),
        "stride": tuple(strides),
        "padding": tuple(before for before, _ in pairs),
        "ceil_mode": bool(number(op.ceil_mode, False)),
    }
    if op.op_type == "max_pool":
        return reader.emit(f"aten.max_pool{spatial}d", attributes, self=reader.value(op.x))
    attributes["count_include_pad"] = not number(op.exclude_padding_from_average, False)
    return reader.emit(f"aten.avg_pool{spatial}d", attributes, self=reader.value(op.x))


@translates("batch_norm")
def _batch_norm(reader: MilReader, op: Any) -> Value:
    affine = {name: reader.value(var) for name, var in (("weight", op.gamma), ("bias", op.beta)) if var is not None}
    return reader.emit(
        "aten.batch_norm",
        {"training": False, "momentum": 0.1, "eps": number(op.epsilon), "cudnn_enabled": False}
        | {name: None for name in ("weight", "bias") if name not in affine},
        input=reader.value(op.x),
        running_mean=reader.value(op.mean),
        running_var=reader.value(op.variance),
        **affine,
    )


@translates("layer_norm")
def _layer_norm(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    rank = len(op.x.shape)
    axes = sorted(axis % rank for axis in number(op.axes))
    if axes != list(range(axes[0], rank)):
        return reader.opaque(op)
    shape = tuple(int(n) for n in op.x.shape[axes[0] :])
    affine = {name: reader.value(var) for name, var in (("weight", op.gamma), ("bias", op.beta)) if var is not None}
    attributes = {"normalized_shape": shape, "eps": number(op.epsilon)}
    return reader.emit("aten.layer_norm", attributes, input=reader.value(op.x), **affine)


@translates("instance_norm")
def _instance_norm(reader: MilReader, op: Any) -> Value:
    affine = {name: reader.value(var) for name, var in (("weight", op.gamma), ("bias", op.beta)) if var is not None}
    attributes = {"use_input_stats": True, "momentum": 0.1, "eps": number(op.epsilon), "cudnn_enabled": False}
    missing = {name: None for name in ("weight", "bias", "running_mean", "running_var") if name not in affine}
    return reader.emit("aten.instance_norm", attributes | missing, input=reader.value(op.x), **affine)


def _bias(reader: MilReader, op: Any) -> Value | None:
    return None if op.bias is None else reader.value(op.bias)


def _padding(op: Any, spatial: int, kernel: Any, strides: Any, dilations: Any) -> list[tuple[int, int]]:
    """Return the padding before and after each spatial axis."""
    kind = number(op.pad_type, "valid")
    if kind == "custom":
        flat = number(op.pad)
        return [(flat[2 * at], flat[2 * at + 1]) for at in range(spatial)]
    if kind == "valid":
        return [(0, 0)] * spatial
    pairs = []
    for at in range(spatial):
        dim = int(op.x.shape[2 + at])
        total = max(0, (math.ceil(dim / strides[at]) - 1) * strides[at] + dilations[at] * (kernel[at] - 1) + 1 - dim)
        small, large = total // 2, total - total // 2
        pairs.append((large, small) if kind == "same_lower" else (small, large))
    return pairs


def _padded(reader: MilReader, x: Value, pairs: list[tuple[int, int]]) -> tuple[Value, tuple[int, ...]]:
    """Return `x` and the symmetric padding that the convolution applies itself."""
    if all(before == after for before, after in pairs):
        return x, tuple(before for before, _ in pairs)
    flat = [0] * 4 + [amount for pair in pairs for amount in pair]
    return padded(reader, x, flat, "constant"), (0,) * len(pairs)

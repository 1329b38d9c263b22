"""Import of ops common to all formats, in the form that passes expect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from graphpress.backends.importing.reader import Reader
from graphpress.ir.graph import Value

REDUCTIONS = {"reduce_sum": "sum.dim_IntList", "reduce_mean": "mean.dim", "reduce_max": "amax", "reduce_min": "amin"}
"""The `aten` op of a reduction over several axes, by its name in both formats."""


def convolution(
    reader: Reader,
    x: Value,
    weight: Value,
    bias: Value | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    output_padding: Sequence[int] | None = None,
) -> Value:
    """Emit a convolution over `len(stride)` axes, transposed if `output_padding` is present."""
    attributes: dict[str, Any] = {
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
    }
    name = "conv"
    if output_padding is not None:
        name, attributes["output_padding"] = "conv_transpose", tuple(output_padding)
    variant = ".input" if name == "conv_transpose" and len(stride) > 1 else ""
    return reader.emit(f"aten.{name}{len(stride)}d{variant}", attributes, input=x, weight=weight, bias=bias)


def product(reader: Reader, x: Value, y: Value) -> Value:
    """Emit ``x @ y``, or the equivalent linear layer if `y` is a stored weight or its transpose."""
    weight = _transposed(y)
    if weight is not None and _is_stored(weight):
        return reader.emit("aten.linear", input=x, weight=weight)
    return reader.emit("aten.matmul", self=x, other=y)


def _transposed(value: Value) -> Value | None:
    """Return the value of which the 2-D `value` is the transpose, or None."""
    node = value.node
    if node is None or value.tensor_type.rank != 2:
        return None
    if node.op.name == "aten.permute":
        is_transpose = [dim % 2 for dim in node.attribute("dims")] == [1, 0]
    else:
        is_transpose = node.op.name == "aten.transpose.int" and (node.attribute("dim0") - node.attribute("dim1")) % 2
    return node.operands["self"] if is_transpose else None


def _is_stored(value: Value) -> bool:
    expansions = ("quant.lut_to_dense", "quant.blockwise_shift_scale", "quant.sparse_to_dense")
    return value.constant is not None or (value.node is not None and value.node.op.name in expansions)


def unsqueezed(reader: Reader, x: Value, axes: Iterable[int], rank: int) -> Value:
    """Emit `x` with additional `axes` of size one, counted in the result of `rank` axes."""
    for axis in sorted(axis % rank for axis in axes):
        x = reader.emit("aten.unsqueeze", {"dim": axis}, self=x)
    return x


def split(reader: Reader, x: Value, axis: int, sizes: Iterable[int]) -> tuple[Value, ...]:
    """Emit the split of `x` along `axis` into parts of `sizes`."""
    found, start = [], 0
    for size in sizes:
        found.append(reader.emit("aten.slice.Tensor", {"dim": axis, "start": start, "end": start + size}, self=x))
        start += size
    return tuple(found)


def padded(reader: Reader, x: Value, flat: Sequence[int], mode: str, fill: Any = None) -> Value:
    """Emit `x` with padding; `flat` holds the two sizes of the first axis, then of the next."""
    pairs = [flat[at : at + 2] for at in range(0, len(flat), 2)]
    pad = tuple(amount for pair in reversed(pairs) for amount in pair)
    if mode == "constant":
        return reader.emit("aten.constant_pad_nd", {"pad": pad} | ({} if fill is None else {"value": fill}), self=x)
    while pad[-2:] == (0, 0):
        pad = pad[:-2]
    return reader.emit("aten.pad", {"pad": pad, "mode": mode}, self=x)


def shape_along_axis(count: int, axis: int, rank: int) -> tuple[int, ...]:
    """Return the shape of scales or zero points for data of `rank` axes: `count` along `axis`, or one for all."""
    if count == 1:
        return ()
    shape = [1] * rank
    shape[axis] = count
    return tuple(shape)

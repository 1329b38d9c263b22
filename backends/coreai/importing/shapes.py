"""Import of ops that rearrange or select elements."""

from __future__ import annotations

from typing import Any

import torch

from graphpress.backends.coreai.importing.reader import AssetReader, Read, StoredConstant, tensor_type, translates, word
from graphpress.backends.importing.layers import padded, split, unsqueezed
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value


@translates("reshape")
def _reshape(reader: AssetReader, op: Any) -> Read | None:
    shape, found = reader.number(op.operands[1]), reader.known[op.operands[0]]
    if shape is None:
        return None
    if (
        isinstance(found, StoredConstant) and found.tensor.numel() == 1
    ):  # a scalar zero point as a tensor with one element
        return StoredConstant(found.tensor.reshape(shape), found.dtype)
    return reader.emit("aten.reshape", {"shape": tuple(shape)}, self=_first(reader, op))


@translates("transpose")
def _transpose(reader: AssetReader, op: Any) -> Value | None:
    order = reader.number(op.operands[1])
    return None if order is None else reader.emit("aten.permute", {"dims": tuple(order)}, self=_first(reader, op))


@translates("expand_dims")
def _expand_dims(reader: AssetReader, op: Any) -> Value | None:
    axes = reader.number(op.operands[1])
    rank = tensor_type(op.results[0].type).rank
    return None if axes is None else unsqueezed(reader, _first(reader, op), axes, rank)


@translates("shrink_dims")
def _shrink_dims(reader: AssetReader, op: Any) -> Value | None:
    axes = reader.number(op.operands[1])
    return None if axes is None else reader.emit("aten.squeeze.dims", {"dim": tuple(axes)}, self=_first(reader, op))


@translates("concat")
def _concat(reader: AssetReader, op: Any) -> Read | None:
    axis, *parts = op.operands
    dim, found = reader.number(axis), [reader.known[part] for part in parts]
    if dim is None:
        return None
    if all(isinstance(each, StoredConstant) and each.dtype.is_integer for each in found):  # the shape of a tensor
        tensors = [each.tensor for each in found if isinstance(each, StoredConstant)]
        dtype = found[0].dtype  # type: ignore[union-attr]
        return StoredConstant(torch.cat([tensor.long() for tensor in tensors], dim).to(tensors[0].dtype), dtype)
    return reader.emit("aten.cat", {"dim": dim}, tensors=tuple(reader.value(part) for part in parts))


@translates("split")
def _split(reader: AssetReader, op: Any) -> tuple[Value, ...] | None:
    x, sizes, axis = _first(reader, op), reader.number(op.operands[1]), reader.number(op.operands[2])
    if sizes is None or axis is None:
        return None
    if isinstance(sizes, int):  # the last part may be smaller
        size = _size(x, axis)
        sizes = [min(sizes, size - start) for start in range(0, size, sizes)]
    return split(reader, x, axis, sizes)


@translates("slice")
def _slice(reader: AssetReader, op: Any) -> Read | None:
    first, last, steps = (reader.number(each) for each in op.operands[1:])
    if first is None or last is None or steps is None or any(step < 0 for step in steps):
        return None
    found = reader.known[op.operands[0]]
    if isinstance(found, StoredConstant) and found.dtype.is_integer:
        places = tuple(slice(*each) for each in zip(first, last, steps, strict=True))
        return StoredConstant(found.tensor.long()[places].to(found.tensor.dtype), found.dtype)
    x = reader.value(op.operands[0])
    for axis, (start, end, step) in enumerate(zip(first, last, steps, strict=True)):
        if start or end < x.tensor_type.shape[axis] or step != 1:
            x = reader.emit("aten.slice.Tensor", {"dim": axis, "start": start, "end": end, "step": step}, self=x)
    return x


@translates("get_shape")
def _get_shape(reader: AssetReader, op: Any) -> StoredConstant:
    shape = _first(reader, op).tensor_type.shape
    return StoredConstant(torch.tensor(list(shape), dtype=torch.int64).to(torch.uint32), DType.UINT32)


@translates("broadcast_in_dims")
def _broadcast_in_dims(reader: AssetReader, op: Any) -> Value | None:
    x, sizes, axes = _first(reader, op), reader.number(op.operands[1]), reader.number(op.operands[2])
    if sizes is None or axes is None:
        return None
    wide = list(x.tensor_type.shape)
    for axis, size in zip(axes, sizes, strict=True):
        wide[axis] = size
    return reader.emit("aten.expand", {"size": tuple(wide)}, self=x)


@translates("broadcast_to")
def _broadcast_to(reader: AssetReader, op: Any) -> Value | None:
    shape = reader.number(op.operands[1])
    return None if shape is None else reader.emit("aten.expand", {"size": tuple(shape)}, self=_first(reader, op))


@translates("tile")
def _tile(reader: AssetReader, op: Any) -> Value | None:
    counts = reader.number(op.operands[1])
    return None if counts is None else reader.emit("aten.repeat", {"repeats": tuple(counts)}, self=_first(reader, op))


@translates("reverse")
def _reverse(reader: AssetReader, op: Any) -> Value | None:
    axes = reader.number(op.operands[1])
    return None if axes is None else reader.emit("aten.flip", {"dims": tuple(axes)}, self=_first(reader, op))


@translates("pad")
def _pad(reader: AssetReader, op: Any) -> Value | None:
    flat, fill = reader.number(op.operands[1]), reader.number(op.operands[2])
    mode = word(op, "padding_mode") or word(op, "mode")
    if flat is None or mode not in ("constant", "reflect", "replicate", "circular"):
        return None
    if mode == "constant" and fill is None:
        return None
    return padded(reader, _first(reader, op), flat, mode, fill)


@translates("gather_along_axis")
def _gather_along_axis(reader: AssetReader, op: Any) -> Value | None:
    axis = reader.number(op.operands[2])
    if axis is None:
        return None
    index = reader.cast(reader.value(op.operands[1]), DType.INT64)
    return reader.emit("aten.gather", {"dim": axis}, self=_first(reader, op), index=index)


@translates("gather_nd")
def _gather_nd(reader: AssetReader, op: Any) -> Value:
    x, places = _first(reader, op), reader.cast(reader.value(op.operands[1]), DType.INT64)
    columns = range(_size(places, -1))
    indices = tuple(reader.emit("aten.select.int", {"dim": -1, "index": at}, self=places) for at in columns)
    if len(indices) == 1 and x.tensor_type.rank == 2:
        return reader.emit("aten.embedding", weight=x, indices=indices[0])
    return reader.emit("aten.index.Tensor", self=x, indices=indices)


@translates("interpolate")
def _interpolate(reader: AssetReader, op: Any) -> Value | None:
    """Interpolate along one axis after the other: nearest element, or weighted mean of the neighbours."""
    x, shape, scales, offsets = _first(reader, op), *(reader.tensor(each) for each in op.operands[1:])
    mode = word(op, "interpolation_mode")
    if shape is None or scales is None or offsets is None or mode not in ("linear", "nearest_neighbor"):
        return None
    dtype = x.tensor_type.dtype
    for axis, wanted in enumerate(shape.tolist()):
        size = _size(x, axis)
        if wanted == size and scales[axis] == 1 and offsets[axis] == 0:
            continue
        at = (torch.arange(wanted) + 0.5 - offsets[axis]) / scales[axis] - 0.5
        if mode == "nearest_neighbor":
            x = _picked(reader, x, axis, at.round())
            continue
        at = at.clamp(0, size - 1)
        low, high = _picked(reader, x, axis, at.floor()), _picked(reader, x, axis, at.ceil())
        share = (at - at.floor()).reshape([-1 if each == axis else 1 for each in range(x.tensor_type.rank)])
        weight = reader.constant(share.to(dtype.torch_dtype), dtype)
        x = reader.emit("aten.lerp.Tensor", self=low, end=high, weight=weight)
    return x


def _picked(reader: AssetReader, x: Value, axis: int, at: torch.Tensor) -> Value:
    places = at.clamp(0, _size(x, axis) - 1).long()
    index = reader.constant(places, DType.INT64)
    return reader.emit("aten.index_select", {"dim": axis}, self=x, index=index)


def _first(reader: AssetReader, op: Any) -> Value:
    return reader.value(op.operands[0])


def _size(value: Value, axis: int) -> int:
    size = value.tensor_type.shape[axis]
    assert isinstance(size, int)  # dynamic dims have a number here
    return size

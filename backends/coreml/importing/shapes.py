"""Ops of MIL that rearrange and pick elements."""

from __future__ import annotations

from typing import Any

from graphpress.backends.coreml.importing.reader import MilReader, number, translates
from graphpress.backends.importing.layers import padded, split, unsqueezed
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value


@translates("reshape", "reshape_like")
def _reshape(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    shape = None if op.op_type == "reshape_like" else number(op.shape)
    if shape is None:
        return reader.opaque(op)
    x = reader.value(op.x)
    kept = [x.tensor_type.shape[at] if n == 0 else n for at, n in enumerate(shape)]
    return reader.emit("aten.reshape", {"shape": tuple(kept)}, self=x)


@translates("transpose")
def _transpose(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.permute", {"dims": tuple(number(op.perm))}, self=reader.value(op.x))


@translates("expand_dims")
def _expand_dims(reader: MilReader, op: Any) -> Value:
    return unsqueezed(reader, reader.value(op.x), number(op.axes), len(op.outputs[0].shape))


@translates("squeeze")
def _squeeze(reader: MilReader, op: Any) -> Value:
    axes = number(op.axes)
    dims = {} if axes is None else {"dim": tuple(axes)}
    return reader.emit("aten.squeeze" if axes is None else "aten.squeeze.dims", dims, self=reader.value(op.x))


@translates("concat")
def _concat(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    if number(op.interleave, False):
        return reader.opaque(op)
    return reader.emit("aten.cat", {"dim": number(op.axis)}, tensors=tuple(reader.value(v) for v in op.values))


@translates("stack")
def _stack(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.stack", {"dim": number(op.axis)}, tensors=tuple(reader.value(v) for v in op.values))


@translates("split")
def _split(reader: MilReader, op: Any) -> tuple[Value, ...]:
    axis = number(op.axis)
    return split(reader, reader.value(op.x), axis, [int(out.shape[axis]) for out in op.outputs])


@translates("slice_by_index")
def _slice_by_index(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    begin, end = number(op.begin), number(op.end)
    if begin is None or end is None:
        return reader.opaque(op)
    rank = len(begin)
    none = [False] * rank
    begin_mask, end_mask = number(op.begin_mask, none), number(op.end_mask, none)
    squeezed, stride = number(op.squeeze_mask, none), number(op.stride, [1] * rank)
    if any(step < 0 for step in stride):
        return reader.opaque(op)
    x = reader.value(op.x)
    for axis in range(rank):
        first = 0 if begin_mask[axis] else begin[axis]
        last = None if end_mask[axis] else end[axis]
        if squeezed[axis]:
            last = first + 1 if first != -1 else None
        if (first, last, stride[axis]) != (0, None, 1):
            x = reader.emit(
                "aten.slice.Tensor", {"dim": axis, "start": first, "end": last, "step": stride[axis]}, self=x
            )
    if any(squeezed):
        axes = tuple(axis for axis in range(rank) if squeezed[axis])
        x = reader.emit("aten.squeeze.dims", {"dim": axes}, self=x)
    return x


@translates("slice_by_size")
def _slice_by_size(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    begin, size = number(op.begin), number(op.size)
    if begin is None or size is None:
        return reader.opaque(op)
    x = reader.value(op.x)
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        last = None if count == -1 else first + count
        x = reader.emit("aten.slice.Tensor", {"dim": axis, "start": first, "end": last}, self=x)
    return x


@translates("pad")
def _pad(reader: MilReader, op: Any) -> Value:
    return padded(reader, reader.value(op.x), number(op.pad), number(op.mode, "constant"), number(op.constant_val))


@translates("tile")
def _tile(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.repeat", {"repeats": tuple(number(op.reps))}, self=reader.value(op.x))


@translates("reverse")
def _reverse(reader: MilReader, op: Any) -> Value:
    axes = number(op.axes)
    x = reader.value(op.x)
    return reader.emit("aten.flip", {"dims": tuple(range(x.tensor_type.rank)) if axes is None else tuple(axes)}, self=x)


@translates("band_part")
def _band_part(reader: MilReader, op: Any) -> Value:
    """The last two axes around their diagonal; a negative number of diagonals is all of them."""
    x, lower, upper = reader.value(op.x), number(op.lower), number(op.upper)
    if lower >= 0:
        x = reader.emit("aten.triu", {"diagonal": -lower}, self=x)
    return x if upper < 0 else reader.emit("aten.tril", {"diagonal": upper}, self=x)


@translates("crop")
def _crop(reader: MilReader, op: Any) -> Value:
    x = reader.value(op.x)
    for axis, (first, last) in ((-2, number(op.crop_height)), (-1, number(op.crop_width))):
        x = reader.emit("aten.slice.Tensor", {"dim": axis, "start": first, "end": -last if last else None}, self=x)
    return x


@translates("gather")
def _gather(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    if number(getattr(op, "batch_dims", None), 0):
        return reader.opaque(op)
    x, axis = reader.value(op.x), number(op.axis)
    indices = reader.emit("aten._to_copy", {"dtype": DType.INT64}, self=reader.value(op.indices))
    if axis == 0 and x.tensor_type.rank == 2 and indices.tensor_type.rank:
        return reader.emit("aten.embedding", weight=x, indices=indices)
    flat = reader.emit("aten.reshape", {"shape": (-1,)}, self=indices)
    picked = reader.emit("aten.index_select", {"dim": axis}, self=x, index=flat)
    return reader.emit("aten.reshape", {"shape": tuple(op.outputs[0].shape)}, self=picked)


@translates("gather_along_axis")
def _gather_along_axis(reader: MilReader, op: Any) -> Value:
    index = reader.emit("aten._to_copy", {"dtype": DType.INT64}, self=reader.value(op.indices))
    return reader.emit("aten.gather", {"dim": number(op.axis)}, self=reader.value(op.x), index=index)


@translates("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(reader: MilReader, op: Any) -> Value:
    if op.op_type == "pixel_shuffle":
        return reader.emit("aten.pixel_shuffle", {"upscale_factor": number(op.upscale_factor)}, self=reader.value(op.x))
    return reader.emit(
        "aten.pixel_unshuffle", {"downscale_factor": number(op.downscale_factor)}, self=reader.value(op.x)
    )


@translates("upsample_nearest_neighbor")
def _upsample_nearest(reader: MilReader, op: Any) -> Value:
    size = tuple(int(n) for n in op.outputs[0].shape[-2:])
    return reader.emit("aten.upsample_nearest2d", {"output_size": size}, self=reader.value(op.x))


@translates("upsample_bilinear")
def _upsample_bilinear(reader: MilReader, op: Any) -> Value:
    size = tuple(int(n) for n in op.outputs[0].shape[-2:])
    attributes = {"output_size": size, "align_corners": number(op.align_corners)}
    return reader.emit("aten.upsample_bilinear2d", attributes, self=reader.value(op.x))

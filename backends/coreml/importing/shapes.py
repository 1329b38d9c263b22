"""Import of MIL ops that rearrange or select elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
    axis, values = number(op.axis), tuple(reader.value(v) for v in op.values)
    if number(op.interleave, False):  # of values of one shape: their slices in turns
        behind = axis % values[0].tensor_type.rank + 1
        turns = reader.emit("aten.stack", {"dim": behind}, tensors=values)
        return reader.emit("aten.flatten.using_ints", {"start_dim": behind - 1, "end_dim": behind}, self=turns)
    return reader.emit("aten.cat", {"dim": axis}, tensors=values)


@translates("stack")
def _stack(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.stack", {"dim": number(op.axis)}, tensors=tuple(reader.value(v) for v in op.values))


@translates("split")
def _split(reader: MilReader, op: Any) -> tuple[Value, ...]:
    axis = number(op.axis)
    return split(reader, reader.value(op.x), axis, [int(out.shape[axis]) for out in op.outputs])


@translates("slice_by_index")
def _slice_by_index(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    slices = _slices(op)
    if slices is None:
        return reader.opaque(op)
    x = reader.value(op.x)
    for where in slices:
        x = reader.emit("aten.slice.Tensor", where, self=x)
    if squeezed := _squeezed(op):
        x = reader.emit("aten.squeeze.dims", {"dim": squeezed}, self=x)
    return x


@translates("slice_update")
def _slice_update(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    """Insert the updated slice axis by axis, the innermost first."""
    slices = _slices(op)
    if slices is None:
        return reader.opaque(op)
    targets = [reader.value(op.x)]
    for where in slices:
        targets.append(reader.emit("aten.slice.Tensor", where, self=targets[-1]))
    update = reader.value(op.update)
    for axis in _squeezed(op):
        update = reader.emit("aten.unsqueeze", {"dim": axis}, self=update)
    for where, target in zip(reversed(slices), reversed(targets[:-1]), strict=True):
        update = reader.emit("aten.slice_scatter", where, self=target, src=update)
    return update


def _slices(op: Any) -> list[dict[str, int | None]] | None:
    """Return the slices of an op by axis, without full axes; None if they are computed or reversed."""
    begin, end = number(op.begin), number(op.end)
    if begin is None or end is None:
        return None
    none = [False] * len(begin)
    begin_mask, end_mask = number(op.begin_mask, none), number(op.end_mask, none)
    squeezed, stride = _squeezed(op), number(op.stride, [1] * len(begin))
    if any(step < 0 for step in stride):
        return None
    found: list[dict[str, int | None]] = []
    for axis, step in enumerate(stride):
        first = 0 if begin_mask[axis] else begin[axis]
        last = None if end_mask[axis] else end[axis]
        if axis in squeezed:
            last = first + 1 if first != -1 else None
        if (first, last, step) != (0, None, 1):
            found.append({"dim": axis, "start": first, "end": last, "step": step})
    return found


def _squeezed(op: Any) -> tuple[int, ...]:
    """Return the axes that are indexed by a single number."""
    return tuple(axis for axis, is_one in enumerate(number(op.squeeze_mask, [])) if is_one)


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
def _tile(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    repeats = number(op.reps)
    if repeats is None:  # computed from a shape; all axes are repeated
        sizes = *op.outputs[0].shape, *op.x.shape
        if not all(isinstance(size, int | np.integer) for size in sizes):
            return reader.opaque(op)
        repeats = [int(to) // int(of) for to, of in zip(op.outputs[0].shape, op.x.shape, strict=True)]
    return reader.emit("aten.repeat", {"repeats": tuple(repeats)}, self=reader.value(op.x))


@translates("reverse")
def _reverse(reader: MilReader, op: Any) -> Value:
    axes = number(op.axes)
    x = reader.value(op.x)
    return reader.emit("aten.flip", {"dims": tuple(range(x.tensor_type.rank)) if axes is None else tuple(axes)}, self=x)


@translates("band_part")
def _band_part(reader: MilReader, op: Any) -> Value:
    """Keep the band of the last two axes; a negative number of diagonals means all."""
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


_SCATTERS: Mapping[Any, tuple[str, dict[str, Any]]] = {
    "add": ("aten.scatter_add", {}),
    "mul": ("aten.scatter.reduce", {"reduce": "multiply"}),
    "update": ("aten.scatter.src", {}),
}


@translates("scatter_along_axis")
def _scatter_along_axis(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    mode = None if op.mode is None else op.mode.val
    if mode not in _SCATTERS:
        return reader.opaque(op)
    name, more = _SCATTERS[mode]
    index = reader.emit("aten._to_copy", {"dtype": DType.INT64}, self=reader.value(op.indices))
    operands = {"self": reader.value(op.data), "index": index, "src": reader.value(op.updates)}
    return reader.emit(name, {"dim": number(op.axis), **more}, **operands)


@translates("argsort")
def _argsort(reader: MilReader, op: Any) -> Value:
    attributes = {"dim": number(op.axis, -1), "descending": not number(op.ascending, False)}
    _, places = reader.emit_all("aten.sort", attributes, self=reader.value(op.x))
    return reader.emit("aten._to_copy", {"dtype": DType.INT32}, self=places)


@translates("one_hot")
def _one_hot(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    classes, axis = number(op.one_hot_vector_size), number(op.axis, -1)
    if classes is None or axis not in (-1, len(op.outputs[0].shape) - 1):
        return reader.opaque(op)
    on, off = number(op.on_value, 1), number(op.off_value, 0)
    indices = reader.emit("aten._to_copy", {"dtype": DType.INT64}, self=reader.value(op.indices))
    places = reader.emit("aten.one_hot", {"num_classes": classes}, self=indices)
    typed = reader.emit("aten._to_copy", {"dtype": reader.dtype(op.outputs[0])}, self=places)
    scaled = typed if on - off == 1 else reader.emit("aten.mul.Scalar", {"other": on - off}, self=typed)
    return reader.emit("aten.add.Scalar", {"other": off}, self=scaled) if off else scaled


@translates("fill_like")
def _fill_like(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten.full_like", {"fill_value": number(op.value, 0.0)}, self=reader.value(op.ref_tensor))


@translates("gather_nd")
def _gather_nd(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    """Gather the elements at the coordinates in the last axis of the indices."""
    if number(getattr(op, "batch_dims", None), 0):
        return reader.opaque(op)
    return reader.emit("aten.index.Tensor", self=reader.value(op.x), indices=_coordinates(reader, op.indices))


@translates("scatter")
def _scatter(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    """Replace or add to the slices at indices along an axis."""
    target = {"update": "aten.index_copy", "add": "aten.index_add"}.get(number(op.mode))
    if target is None or len(op.indices.shape) != 1:
        return reader.opaque(op)
    index = reader.emit("aten._to_copy", {"dtype": DType.INT64}, self=reader.value(op.indices))
    x, updates = reader.value(op.data), reader.value(op.updates)
    return reader.emit(target, {"dim": number(op.axis)}, self=x, index=index, source=updates)


@translates("scatter_nd")
def _scatter_nd(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    """Replace or add to the elements at the coordinates in the last axis of the indices."""
    if number(op.mode) not in ("update", "add"):
        return reader.opaque(op)
    coordinates = _coordinates(reader, op.indices)
    attributes = {"accumulate": number(op.mode) == "add"}
    return reader.emit(
        "aten.index_put", attributes, self=reader.value(op.data), indices=coordinates, values=reader.value(op.updates)
    )


def _coordinates(reader: MilReader, indices: Any) -> list[Value]:
    """Return the indices of each axis, which are the elements of the last axis of `indices`."""
    wide = reader.emit("aten._to_copy", {"dtype": DType.INT64}, self=reader.value(indices))
    axes = range(int(indices.shape[-1]))
    return [reader.emit("aten.select.int", {"dim": -1, "index": axis}, self=wide) for axis in axes]


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


@translates("read_state")
def _read_state(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    return reader.states.get(id(op.input)) or reader.opaque(op)


@translates("coreml_update_state")
def _update_state(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    if id(op.state) not in reader.states:
        return reader.opaque(op)
    reader.states[id(op.state)] = reader.value(op.value)
    return reader.states[id(op.state)]

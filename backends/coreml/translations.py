"""Translation of the `coreai` operators to Core ML's compressed constants."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphpress.backends.coreml.dependency import require
from graphpress.backends.coreml.legality import Target
from graphpress.backends.errors import ConversionError

_TABLE_BITS = {2: 1, 4: 2, 8: 3, 16: 4, 64: 6, 256: 8}


@cache
def register() -> None:
    """Register the five operators with coremltools; idempotent."""
    registry = require("coremltools.converters.mil.frontend.torch.torch_op_registry")
    _name_small_integers()
    for name, translate in TRANSLATIONS.items():
        registry._TORCH_OPS_REGISTRY.set_func_by_name(_translation(translate), f"coreai::{name}")


def _name_small_integers() -> None:
    """Assign coremltools dtype numbers to torch's integers below 8 bits."""
    numbers = require("coremltools.converters.mil.frontend.torch.utils").TORCH_DTYPE_TO_NUM
    for number, dtype in _CODE_DTYPES.items():
        numbers.setdefault(dtype, number)


_SMALL = [f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)]
_FLOATS = ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn_x2", "bfloat16"]
_CODE_DTYPES: dict[int, torch.dtype] = {1000 + at: getattr(torch, name) for at, name in enumerate([*_SMALL, *_FLOATS])}


def _translation(translate: Callable[..., Any]) -> Callable[[Any, Any], None]:
    """Adapt `translate` to coremltools: called with argument values by schema name."""

    def convert(context: Any, node: Any) -> None:
        packet = getattr(torch.ops.coreai, node.kind.partition("::")[2])
        parameters = packet.default._schema.arguments
        given = dict(zip((p.name for p in parameters), node.inputs, strict=False))
        given |= {name: value[0] for name, value in (node.kwinputs or {}).items()}
        arguments = {p.name: _value(context, given[p.name]) if p.name in given else p.default_value for p in parameters}
        made = translate(Builder(context, node.name), **arguments)
        if made is not None:
            context.add(made, torch_name=node.name)

    return convert


def _value(context: Any, argument: Any) -> Any:
    """Return a value of the program, a table that waits for its scale, or a number."""
    if not isinstance(argument, str):
        return argument
    waiting: dict[str, _Table] = getattr(context, "_graphpress_tables", {})
    return waiting[argument] if argument in waiting else context[argument]


def dtype_number(name: str) -> int | None:
    """Return coremltools' number for a dtype, or None for a dtype that arrays can have."""
    return next((number for number, each in _CODE_DTYPES.items() if str(each) == f"torch.{name}"), None)


class Constant:
    """An array in place of a value of the program."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.val = array


class DeferredTables:
    """A substitute for coremltools' translation context, with the tables that wait for their scale."""

    @property
    def tables(self) -> dict[str, Any]:
        """Return the waiting tables by op name."""
        found: dict[str, Any] = self.__dict__.setdefault("_graphpress_tables", {})
        return found


class _Table:
    """An integer table that waits for its scale."""

    def __init__(self, indices: np.ndarray[Any, Any], lut: np.ndarray[Any, Any], axis: int) -> None:
        self.indices, self.lut, self.axis = indices, lut, axis


class _SparseTable(_Table):
    """An integer table for the kept elements of a pruned weight, which waits for its scale."""

    def __init__(self, table: _Table, mask: np.ndarray[Any, Any]) -> None:
        super().__init__(table.indices, table.lut, table.axis)
        self.mask = mask


class Builder:
    """Emits ops of the Core ML program for one target."""

    def __init__(self, context: Any, name: str) -> None:
        self.context, self.name = context, name
        self.mb = require("coremltools.converters.mil.mil").Builder
        self.types = require("coremltools.converters.mil.mil").types
        opset = require("coremltools.converters.mil.mil.block").curr_opset_version()
        self.target = Target.iOS15 if opset is None else Target.of(opset)

    def plain(self, array: np.ndarray[Any, Any]) -> Any:
        """Emit an uncompressed constant."""
        return self.mb.const(val=array, name=self.name)

    def cast(self, value: Any, dtype: str) -> Any:
        """Cast a float value to `dtype`."""
        wanted = {"float32": "fp32", "float16": "fp16"}.get(dtype)
        has = self.types.builtin_to_string(value.dtype)
        if wanted is None or has == wanted or has not in ("fp16", "fp32"):
            return value
        return self.mb.cast(x=value, dtype=wanted, name=f"{self.name}_cast")

    def codes(self, codes: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
        """Return `codes` typed as `dtype`, which may be narrower than numpy's types."""
        numpy_dtype = self.types.type_mapping.string_to_nptype(dtype)
        return codes.astype(numpy_dtype)

    def lookup(self, indices: np.ndarray[Any, Any], lut: Any, axis: int, vectors: int, name: str) -> Any:
        """Emit a table lookup."""
        bits = _TABLE_BITS[lut.shape[-2]]
        if self.target < Target.iOS18:
            packing = require("coremltools.optimize._utils")
            packed = np.asarray(packing.pack_elements_into_bits(indices.reshape(-1), bits), dtype=np.uint8)
            shape = np.asarray(indices.shape, dtype=np.uint32)
            return self.mb.constexpr_lut_to_dense(indices=packed, lut=lut.reshape(-1), shape=shape, name=name)
        typed = self.codes(indices, f"uint{bits}")
        extra = {"vector_axis": np.int32(axis)} if vectors > 1 else {}
        return self.mb.constexpr_lut_to_dense(indices=typed, lut=lut, name=name, **extra)

    def shift_scale(self, data: Any, scale: np.ndarray[Any, Any], offset: Any, name: str) -> Any:
        """Emit ``(data - offset) * scale`` per block."""
        extra = {} if offset is None else {"offset": offset}
        return self._once(self.mb.constexpr_blockwise_shift_scale, name, data=data, scale=scale, **extra)

    def sparse(self, values: Any, mask: Any, name: str) -> Any:
        """Emit the expansion of kept elements by a mask."""
        return self.mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask, name=name)

    def sparse_lookup(self, indices: Any, lut: Any, mask: Any, name: str) -> tuple[Any, Any]:
        """Emit the lookup of kept elements; returns mask and values."""
        rank, entries = np.ndim(mask), lut.shape[-2]
        if isinstance(lut, np.ndarray):
            lut = lut.reshape([1] * rank + [entries, 1])
        found: tuple[Any, Any] = self._once(
            self.mb.constexpr_lut_to_sparse,
            name,
            indices_mask=self.codes(mask, "uint1"),
            indices_nonzero_data=self.codes(indices, f"uint{_TABLE_BITS[entries]}"),
            lut=lut,
        )
        return found

    def sparse_shift_scale(self, values: Any, mask: Any, scale: np.ndarray[Any, Any], name: str) -> Any:
        """Emit ``values * scale`` per block of a masked tensor."""
        places, scaled = self._once(
            self.mb.constexpr_sparse_blockwise_shift_scale,
            f"{name}_kept",
            data_mask=mask,
            nonzero_data=values,
            scale=scale,
        )
        return self.sparse(scaled, places, name)

    def _once(self, emit: Callable[..., Any], name: str, **operands: Any) -> Any:
        """Emit an op, or return the results of an equal one in the block.

        coremltools merges equal compressed constants by their first result, and fails if a second one is used.
        """
        made: dict[Any, Any] = self.context.__dict__.setdefault("_graphpress_pairs", {})
        block = require("coremltools.converters.mil.mil.block").curr_block()
        key = (id(block), emit.__name__, *((each, _identity(operand)) for each, operand in operands.items()))
        if key not in made:
            made[key] = emit(**operands, name=name)
        return made[key]


def _identity(operand: Any) -> Any:
    """Return a key of the content of a constant, or of the identity of a computed value."""
    array = operand if isinstance(operand, np.ndarray) else operand.val
    return id(operand) if array is None else (str(array.dtype), array.shape, array.tobytes())


def _array(value: Any, what: str) -> np.ndarray[Any, Any]:
    found = getattr(value, "val", None)
    if found is None:
        raise ConversionError(f"Core ML stores {what} as a constant, but here it is computed")
    return np.asarray(found)


def _lut_to_dense(build: Builder, indices: Any, lut: Any, axis: int) -> Any:
    index_values, table = _array(indices, "indices"), _array(lut, "tables")
    axis %= max(index_values.ndim, 1)
    if table.dtype.kind in "iu":
        waiting = build.context.__dict__.setdefault("_graphpress_tables", {})
        waiting[build.name] = _Table(index_values, table, axis)
        return None
    return build.lookup(index_values, table, axis, table.shape[-1], build.name)


def _shift_scale(
    build: Builder,
    input: Any,
    scale: Any,
    zero_point: Any,
    minval: Any,
    input_dtype: int | None,
    output_dtype: int | None,
) -> Any:
    scales = _array(scale, "scales")
    offset = None if zero_point is None else _array(zero_point, "zero points")
    if isinstance(input, _SparseTable):
        return _scaled_sparse_table(build, input, scales)
    if isinstance(input, _Table):
        return _scaled_table(build, input, scales, offset)
    maker = getattr(input, "op", None)
    if maker is not None and maker.op_type.startswith("constexpr_"):
        if _are_scaled_vectors(maker, scales) and build.target < Target.iOS26:
            return _scaled_vectors(build, maker, scales)
        if maker.op_type == "constexpr_sparse_to_dense" and offset is None:
            values, mask = maker.nonzero_data, maker.mask
            if values.val is not None and values.val.dtype.kind in "iu":
                values = build.codes(values.val, _code_name(input_dtype, values.val))
            return build.sparse_shift_scale(values, mask, scales, build.name)
        return build.shift_scale(input, scales, offset, build.name)
    codes = _array(input, "weights")
    dtype = _code_name(input_dtype, codes)
    if build.target < Target.iOS18:
        return _affine(build, codes, scales, offset)
    zero = None if offset is None else build.codes(np.broadcast_to(offset, scales.shape), dtype)
    return build.shift_scale(build.codes(codes, dtype), scales, zero, build.name)


def _scaled_table(build: Builder, table: _Table, scale: np.ndarray[Any, Any], offset: Any) -> Any:
    lut, width = table.lut, table.lut.shape[-1]
    zero = None if offset is None else np.broadcast_to(offset, scale.shape)
    if build.target >= Target.iOS26:
        dense = build.lookup(table.indices, lut, table.axis, width, f"{build.name}_codes")
        return build.shift_scale(dense, scale, None if zero is None else zero.astype(lut.dtype), build.name)
    if all(groups % blocks == 0 for groups, blocks in zip(lut.shape, scale.shape, strict=False)):
        typed = None if zero is None else zero[..., None, None].astype(lut.dtype)
        entries = build.shift_scale(lut, scale[..., None, None], typed, f"{build.name}_lut")
        return build.lookup(table.indices, entries, table.axis, width, build.name)
    ones = np.ones([1] * lut.ndim, dtype=scale.dtype)
    entries = build.shift_scale(lut, ones, None, f"{build.name}_lut")
    dense = build.lookup(table.indices, entries, table.axis, width, f"{build.name}_codes")
    return build.shift_scale(dense, scale, None if zero is None else zero.astype(scale.dtype), build.name)


def _scaled_sparse_table(build: Builder, table: _SparseTable, scale: np.ndarray[Any, Any]) -> Any:
    lut = table.lut.reshape([1] * table.mask.ndim + [-1, 1])
    if build.target < Target.iOS26:
        one = scale.size == 1
        by = scale[..., None, None] if one else np.ones([1] * lut.ndim, dtype=scale.dtype)
        entries = build.shift_scale(lut, by, None, f"{build.name}_lut")
        mask, values = build.sparse_lookup(table.indices, entries, table.mask, f"{build.name}_codes")
        if one:
            return build.sparse(values, mask, build.name)
    else:
        mask, values = build.sparse_lookup(table.indices, lut, table.mask, f"{build.name}_codes")
    return build.sparse_shift_scale(values, mask, scale, build.name)


def _are_scaled_vectors(maker: Any, scale: np.ndarray[Any, Any]) -> bool:
    """Return True for a float vector table with per-channel scales."""
    axis = getattr(maker, "vector_axis", None)
    return maker.op_type == "constexpr_lut_to_dense" and axis is not None and scale.shape[axis.val] != 1


def _scaled_vectors(build: Builder, maker: Any, scale: np.ndarray[Any, Any]) -> Any:
    indices, lut, axis = np.asarray(maker.indices.val), np.asarray(maker.lut.val), int(maker.vector_axis.val)
    entries = scaled_vectors(torch.from_numpy(lut), torch.from_numpy(scale), axis, indices.shape[axis]).numpy()
    return build.lookup(indices, entries, axis, lut.shape[-1], build.name)


def _affine(build: Builder, codes: np.ndarray[Any, Any], scale: np.ndarray[Any, Any], offset: Any) -> Any:
    """Emit 8-bit weights in the form of targets before iOS18."""
    wide = [axis for axis, dim in enumerate(scale.shape) if dim != 1]
    axis = wide[0] if wide else 0
    zero = np.zeros_like(scale, dtype=codes.dtype) if offset is None else np.broadcast_to(offset, scale.shape)
    flat = (lambda values: values.reshape(-1)) if wide else (lambda values: values.reshape(())[()])
    return build.mb.constexpr_affine_dequantize(
        quantized_data=codes,
        zero_point=flat(zero.astype(codes.dtype)),
        scale=flat(scale),
        axis=np.int32(axis),
        name=build.name,
    )


def _quantize(
    build: Builder, input: Any, scale: Any, output_dtype: int | None, zero_point: Any, minval: Any, axis: int
) -> Any:
    name = _code_name(output_dtype, None)
    return build.mb.quantize(
        input=input, output_dtype=name, name=build.name, **_parameters(input, scale, zero_point, axis, name)
    )


def _dequantize(
    build: Builder,
    input: Any,
    scale: Any,
    zero_point: Any,
    minval: Any,
    axis: int,
    input_dtype: int | None,
    output_dtype: int | None,
) -> Any:
    name = _code_name(input_dtype, None)
    return build.mb.dequantize(input=input, name=build.name, **_parameters(input, scale, zero_point, axis, name))


def _parameters(input: Any, scale: Any, zero_point: Any, axis: int, dtype: str) -> dict[str, Any]:
    """Return scale and zero point as scalars, or one entry per index along an axis."""
    scales = _array(scale, "scales").reshape(-1)
    is_one = scales.size == 1
    found: dict[str, Any] = {"scale": scales[0] if is_one else scales}
    if zero_point is not None:
        zeros = np.broadcast_to(_array(zero_point, "zero points").reshape(-1), scales.shape).astype(dtype)
        found["zero_point"] = zeros[0] if is_one else zeros
    if not is_one:
        found["axis"] = np.int32(axis % len(input.shape))
    return found


def _sparse_to_dense(build: Builder, nonzero_data: Any, mask: Any) -> Any:
    places = _array(mask, "masks")
    if isinstance(nonzero_data, _Table):
        build.context.__dict__["_graphpress_tables"][build.name] = _SparseTable(nonzero_data, places)
        return None
    maker = getattr(nonzero_data, "op", None)
    if maker is not None and maker.op_type == "constexpr_lut_to_dense":
        found = build.sparse_lookup(maker.indices.val, np.asarray(maker.lut.val), places, f"{build.name}_kept")
        return build.sparse(found[1], found[0], build.name)
    values = _array(nonzero_data, "values")
    if build.target < Target.iOS18:
        packing = require("coremltools.optimize._utils")
        bits = np.asarray(packing.pack_elements_into_bits(places.reshape(-1).astype(np.uint8), 1), dtype=np.uint8)
        shape = np.asarray(places.shape, dtype=np.uint32)
        return build.mb.constexpr_sparse_to_dense(nonzero_data=values, mask=bits, shape=shape, name=build.name)
    return build.mb.constexpr_sparse_to_dense(nonzero_data=values, mask=build.codes(places, "uint1"), name=build.name)


def _code_name(number: int | None, codes: Any) -> str:
    """Return the name of the element type of codes."""
    if number is None:
        return str(codes.dtype)
    known = require("coremltools.converters.mil.frontend.torch.utils").NUM_TO_TORCH_DTYPE
    dtype = _CODE_DTYPES.get(number, known.get(number))
    return str(dtype).removeprefix("torch.")


TRANSLATIONS: dict[str, Callable[..., Any]] = {
    "lut_to_dense": _lut_to_dense,
    "constexpr_blockwise_shift_scale": _shift_scale,
    "quantize": _quantize,
    "dequantize": _dequantize,
    "sparse_to_dense": _sparse_to_dense,
}


def scaled_vectors(lut: Tensor, scale: Tensor, axis: int, dim: int) -> Tensor:
    """Fold channel scales into a vector lookup table, as one table per group of channels that share a vector.

    Before iOS26 coremltools folds a scale into the table and interprets each scale block as a block of indices, of
    which there are fewer along the vector axis; its metadata cannot express scales beside vectors.

    Args:
        lut: floats ``[b0..bK-1, entries, V]``.
        scale: of the weight's rank; each dim divides the weight's.
        axis: the axis along which the V values of an entry are laid out.
        dim: the dim of the indices along `axis`.

    Returns:
        Tables ``[c0..cK-1, entries, V]``, where ``c`` is `dim` along `axis` and the larger of both elsewhere. Entries
        are products in the dtype of `lut`, as they would be after the lookup.
    """
    width = lut.shape[-1]
    blocks = [max(pair) for pair in zip(lut.shape, scale.shape, strict=False)]
    blocks[axis] = dim
    for at, size in enumerate(blocks):
        lut = lut.repeat_interleave(size // lut.shape[at], dim=at)
        scale = scale.repeat_interleave(size * (width if at == axis else 1) // scale.shape[at], dim=at)
    parted = scale.unflatten(axis, (dim, width)).movedim(axis + 1, -1)
    return lut * parted.unsqueeze(-2).to(lut.dtype)

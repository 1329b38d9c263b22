"""Compressed constants and quantized activations of MIL, as `quant` ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphpress.backends.coreml.dependency import require
from graphpress.backends.coreml.importing.reader import MilReader, number, translates
from graphpress.backends.importing.layers import shape_along_axis
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value


@translates("constexpr_lut_to_dense")
def _lut_to_dense(reader: MilReader, op: Any) -> Value:
    if "shape" in op.inputs:  # as targets before iOS18 store it: one table, indices packed in bytes
        entries = op.lut.val
        bits, shape = int(math.log2(entries.size)), number(op.shape)
        unpack = require("coremltools.optimize._utils").restore_elements_from_packed_bits
        codes = unpack(op.indices.val, bits, int(np.prod(shape))).reshape(shape)
        indices = reader.constant(op.indices.name, codes.astype(np.uint8), DType.of(f"uint{bits}"))
        table = reader.constant(op.lut.name, entries.reshape([1] * len(shape) + [-1, 1]), reader.dtype(op.lut))
        return reader.emit("quant.lut_to_dense", indices=indices, lut=table)
    lut = reader.value(op.lut)
    return reader.emit(
        "quant.lut_to_dense", {"axis": number(op.vector_axis, 0)}, indices=reader.value(op.indices), lut=lut
    )


@translates("constexpr_blockwise_shift_scale")
def _shift_scale(reader: MilReader, op: Any) -> Value:
    data, scale = reader.value(op.data), reader.value(op.scale)
    zero = {} if op.offset is None else {"zero_point": reader.value(op.offset)}
    attributes = {"dtype": data.tensor_type.dtype, "output_dtype": scale.tensor_type.dtype}
    return reader.emit("quant.blockwise_shift_scale", attributes, input=data, scale=scale, **zero)


@translates("constexpr_affine_dequantize")
def _affine_dequantize(reader: MilReader, op: Any) -> Value:
    data = reader.value(op.quantized_data)
    parameters = _ranked(reader, op, data, op.scale, op.zero_point, number(op.axis, 0))
    dtype = data.tensor_type.dtype
    attributes = {"dtype": dtype, "output_dtype": parameters["scale"].tensor_type.dtype}
    return reader.emit("quant.blockwise_shift_scale", attributes, input=data, **parameters)


@translates("constexpr_sparse_to_dense")
def _sparse_to_dense(reader: MilReader, op: Any) -> Value:
    values = reader.value(op.nonzero_data)
    if "shape" in op.inputs:
        shape = number(op.shape)
        unpack = require("coremltools.optimize._utils").restore_elements_from_packed_bits
        places = unpack(op.mask.val, 1, int(np.prod(shape))).reshape(shape)
        mask = reader.constant(op.mask.name, places.astype(np.uint8), DType.UINT1)
    else:
        mask = reader.value(op.mask)
    return reader.emit("quant.sparse_to_dense", values=values, mask=mask)


@translates("constexpr_sparse_blockwise_shift_scale")
def _sparse_shift_scale(reader: MilReader, op: Any) -> tuple[Value, ...]:
    """Mask and kept elements, of codes that are expanded in their places."""
    mask, scale = reader.value(op.data_mask), reader.value(op.scale)
    values = reader.value(op.nonzero_data)
    zero = {} if op.offset is None else {"zero_point": reader.value(op.offset)}
    codes = reader.emit("quant.sparse_to_dense", values=values, mask=mask)
    attributes = {"dtype": values.tensor_type.dtype, "output_dtype": scale.tensor_type.dtype}
    dense = reader.emit("quant.blockwise_shift_scale", attributes, input=codes, scale=scale, **zero)
    return mask, _kept(reader, dense, op)


@translates("constexpr_lut_to_sparse")
def _lut_to_sparse(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    """Mask and kept elements, of indices that are looked up in their places."""
    lut = reader.value(op.lut)
    if lut.tensor_type.shape[-1] != 1:
        return reader.opaque(op)
    mask, indices = reader.value(op.indices_mask), reader.value(op.indices_nonzero_data)
    places = reader.emit("quant.sparse_to_dense", values=indices, mask=mask)
    return mask, _kept(reader, reader.emit("quant.lut_to_dense", indices=places, lut=lut), op)


def _kept(reader: MilReader, dense: Value, op: Any) -> Value:
    count = int(op.outputs[1].shape[0])
    mask = reader.value(op.data_mask if op.op_type.endswith("scale") else op.indices_mask)
    return reader.emit("quant.kept_elements", {"count": count}, input=dense, mask=mask)


@translates("constexpr_cast")
def _cast(reader: MilReader, op: Any) -> Value:
    return reader.emit("aten._to_copy", {"dtype": DType.FLOAT32}, self=reader.value(op.source_val))


@translates("quantize")
def _quantize(reader: MilReader, op: Any) -> Value:
    data = reader.value(op.input)
    dtype = DType.of(number(op.output_dtype))
    parameters = _ranked(reader, op, data, op.scale, op.zero_point, number(op.axis, 0))
    return reader.emit("quant.quantize", {"dtype": dtype}, input=data, **parameters)


@translates("dequantize")
def _dequantize(reader: MilReader, op: Any) -> Value:
    data = reader.value(op.input)
    parameters = _ranked(reader, op, data, op.scale, op.zero_point, number(op.axis, 0))
    attributes = {"dtype": data.tensor_type.dtype, "output_dtype": parameters["scale"].tensor_type.dtype}
    return reader.emit("quant.dequantize", attributes, input=data, **parameters)


def _ranked(reader: MilReader, op: Any, data: Value, scale: Any, zero_point: Any, axis: int) -> dict[str, Value]:
    """Scale and zero point in the rank of the data, each under its own name."""
    found = {}
    for name, var in (("scale", scale), ("zero_point", zero_point)):
        if var is not None:
            held = np.asarray(var.val)
            shape = shape_along_axis(held.size, axis, data.tensor_type.rank)
            found[name] = reader.constant(var.name, held.reshape(shape), reader.dtype(var))
    return found

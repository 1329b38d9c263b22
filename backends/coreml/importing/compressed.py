"""Import of MIL's compressed constants and quantized activations as `quant` ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphpress.backends.coreml.dependency import require
from graphpress.backends.coreml.importing.reader import MilReader, number, translates
from graphpress.backends.importing.layers import shape_along_axis
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Node, Value


@translates("constexpr_lut_to_dense")
def _lut_to_dense(reader: MilReader, op: Any) -> Value:
    if "shape" in op.inputs:  # the form of targets before iOS18: one table, indices packed in bytes
        entries = op.lut.val
        bits, shape = int(math.log2(entries.size)), number(op.shape)
        unpack = require("coremltools.optimize._utils").restore_elements_from_packed_bits
        codes = unpack(op.indices.val, bits, int(np.prod(shape))).reshape(shape)
        indices = reader.constant(op.indices.name, codes.astype(np.uint8), DType.of(f"uint{bits}"))
        table = reader.constant(op.lut.name, entries.reshape([1] * len(shape) + [-1, 1]), reader.dtype(op.lut))
        return reader.emit("quant.lut_to_dense", indices=indices, lut=table)
    return _looked_up(reader, reader.value(op.indices), reader.value(op.lut), number(op.vector_axis, 0))


def _looked_up(reader: MilReader, indices: Value, lut: Value, axis: int) -> Value:
    """Emit a table lookup; if the table entries are scaled (iOS18), scale the result instead."""
    scaled = lut.node
    if scaled is None or not _scales_tables(scaled):
        return reader.emit("quant.lut_to_dense", {"axis": axis}, indices=indices, lut=lut)
    codes = reader.emit("quant.lut_to_dense", {"axis": axis}, indices=indices, lut=scaled.operands["input"])
    parameters = {name: _of_blocks(reader, scaled.operand(name)) for name in ("scale", "zero_point")}
    return _scaled(reader, codes, **parameters)


def _scales_tables(node: Node) -> bool:
    """Return True for a single scale, optionally with zero point, of all table entries."""
    if node.op.name != "quant.blockwise_shift_scale":
        return False
    given = [node.operand(name) for name in ("scale", "zero_point")]
    return all(v is None or (v.constant is not None and v.tensor_type.shape[-2:] == (1, 1)) for v in given)


def _of_blocks(reader: MilReader, value: Value | None) -> Value | None:
    """Convert table parameters to parameters of the looked-up values, without entry and vector axes."""
    if value is None or value.constant is None:
        return None
    constant = value.constant
    return reader.constant(constant.name, constant.tensor[..., 0, 0].numpy(), constant.type.dtype)


@translates("constexpr_blockwise_shift_scale")
def _shift_scale(reader: MilReader, op: Any) -> Value:
    zero_point = None if op.offset is None else reader.value(op.offset)
    return _scaled(reader, reader.value(op.data), reader.value(op.scale), zero_point)


def _scaled(reader: MilReader, data: Value, scale: Value | None, zero_point: Value | None) -> Value:
    """Emit ``(data - zero_point) * scale``; codes cast to float by a factor of 1 become codes again."""
    assert scale is not None
    if data.node is not None and _multiplies_by_one(data.node):
        data = data.node.operands["input"]
    attributes = {"dtype": data.tensor_type.dtype, "output_dtype": scale.tensor_type.dtype}
    return reader.emit("quant.blockwise_shift_scale", attributes, input=data, scale=scale, zero_point=zero_point)


def _multiplies_by_one(node: Node) -> bool:
    if node.op.name != "quant.blockwise_shift_scale" or node.operand("zero_point") is not None:
        return False
    scale = node.operands["scale"].constant
    return scale is not None and bool((scale.tensor == 1).all())


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
    source = _put_back(values, mask)
    return reader.emit("quant.sparse_to_dense", values=values, mask=mask) if source is None else source


def _put_back(values: Value, mask: Value) -> Value | None:
    """Return the value that `values` were gathered from, if they are scattered to the same positions."""
    kept = values.node
    if kept is None or kept.op.name != "quant.kept_elements" or kept.operands["mask"] is not mask:
        return None
    dense: Value = kept.operands["input"]
    scaled = dense.node
    if scaled is None or scaled.op.name != "quant.blockwise_shift_scale" or scaled.operand("zero_point") is not None:
        return None
    codes = scaled.operands["input"].node
    return dense if codes is not None and codes.op.name == "quant.sparse_to_dense" else None


@translates("constexpr_sparse_blockwise_shift_scale")
def _sparse_shift_scale(reader: MilReader, op: Any) -> tuple[Value, ...]:
    """Emit mask and kept elements of sparse codes, which are expanded in place."""
    mask, scale = reader.value(op.data_mask), reader.value(op.scale)
    values = reader.value(op.nonzero_data)
    zero = {} if op.offset is None else {"zero_point": reader.value(op.offset)}
    codes = reader.emit("quant.sparse_to_dense", values=values, mask=mask)
    attributes = {"dtype": values.tensor_type.dtype, "output_dtype": scale.tensor_type.dtype}
    dense = reader.emit("quant.blockwise_shift_scale", attributes, input=codes, scale=scale, **zero)
    return mask, _kept(reader, dense, op)


@translates("constexpr_lut_to_sparse")
def _lut_to_sparse(reader: MilReader, op: Any) -> Value | tuple[Value, ...]:
    """Emit mask and kept elements of a sparse lookup: direct for one table, in place for several."""
    lut = reader.value(op.lut)
    if lut.tensor_type.shape[-1] != 1:
        return reader.opaque(op)
    mask, indices = reader.value(op.indices_mask), reader.value(op.indices_nonzero_data)
    if all(dim == 1 for dim in lut.tensor_type.shape[:-2]):
        return mask, _looked_up(reader, indices, _flat(reader, lut), 0)
    places = reader.emit("quant.sparse_to_dense", values=indices, mask=mask)
    return mask, _kept(reader, reader.emit("quant.lut_to_dense", indices=places, lut=lut), op)


def _flat(reader: MilReader, lut: Value) -> Value:
    """Reshape a table of any rank for indices along one axis."""
    if lut.node is not None and _scales_tables(lut.node):
        parts = {name: lut.node.operand(name) for name in ("input", "scale", "zero_point")}
        flat = {name: None if part is None else _flat(reader, part) for name, part in parts.items()}
        return reader.emit("quant.blockwise_shift_scale", lut.node.attributes, **flat)
    if lut.constant is None:
        return reader.emit("aten.reshape", {"shape": (1, *lut.tensor_type.shape[-2:])}, self=lut)
    name, tensor, dtype = lut.constant.name, lut.constant.tensor, lut.tensor_type.dtype
    return reader.constant(name, tensor.reshape(1, *tensor.shape[-2:]).numpy(), dtype)


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
    """Return scale and zero point in the rank of the data, by name."""
    found = {}
    for name, var in (("scale", scale), ("zero_point", zero_point)):
        if var is not None:
            held = np.asarray(var.val)
            shape = shape_along_axis(held.size, axis, data.tensor_type.rank)
            found[name] = reader.constant(var.name, held.reshape(shape), reader.dtype(var))
    return found

"""Import of compressed constants and quantized activations as `quant` ops."""

from __future__ import annotations

from typing import Any

import torch

from graphpress.backends.coreai.importing.reader import AssetReader, StoredConstant, tensor_type, translates
from graphpress.backends.importing.layers import shape_along_axis
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value


@translates("lut_to_dense")
def _lut_to_dense(reader: AssetReader, op: Any) -> Value:
    indices, lut, axis = op.operands
    axis = reader.number(axis)
    return reader.emit(
        "quant.lut_to_dense",
        {"axis": axis[0] if isinstance(axis, list) else axis},
        indices=reader.value(indices),
        lut=reader.value(lut),
    )


@translates("blockwise_shift_scale")
def _shift_scale(reader: AssetReader, op: Any) -> Value | None:
    data, scale, zero_point, minval = op.operands
    shift = _shift(reader, zero_point, minval)
    if shift is None:
        return None
    attributes = {"dtype": tensor_type(data.type).dtype, "output_dtype": tensor_type(op.results[0].type).dtype}
    operands = {name: reader.constant(each.tensor, each.dtype) for name, each in shift.items()}
    return reader.emit(
        "quant.blockwise_shift_scale", attributes, input=reader.value(data), scale=reader.value(scale), **operands
    )


@translates("quantize", "dequantize")
def _activation(reader: AssetReader, op: Any) -> Value | None:
    data, scale, zero_point, minval, axis = op.operands
    shift, steps = _shift(reader, zero_point, minval), reader.known[scale]
    if shift is None or not isinstance(steps, StoredConstant):
        return None
    at, rank = reader.number(axis), tensor_type(data.type).rank
    operands = {
        name: reader.constant(each.tensor.reshape(shape_along_axis(each.tensor.numel(), at, rank)), each.dtype)
        for name, each in {"scale": steps, **shift}.items()
    }
    result = tensor_type(op.results[0].type).dtype
    if str(op.name) == "coreai.quantize":
        return reader.emit("quant.quantize", {"dtype": result}, input=reader.value(data), **operands)
    attributes = {"dtype": tensor_type(data.type).dtype, "output_dtype": result}
    return reader.emit("quant.dequantize", attributes, input=reader.value(data), **operands)


@translates("build_sparse_with_bitmask")
def _sparse(reader: AssetReader, op: Any) -> Value:
    values, mask = op.operands
    places = reader.known[mask]
    bits = places.tensor if isinstance(places, StoredConstant) else None
    read = reader.value(mask) if bits is None else reader.constant(bits.to(torch.uint8), DType.UINT1)
    return reader.emit("quant.sparse_to_dense", values=reader.value(values), mask=read)


@translates("sparse_with_bitmask_to_dense")
def _dense(reader: AssetReader, op: Any) -> Value:
    return reader.value(op.operands[0])


def _shift(reader: AssetReader, zero_point: Any, minval: Any) -> dict[str, StoredConstant] | None:
    """Return the offset that applies, zero point or minimum value.

    An asset has ``scale * (code - zero_point) + minval``, with the lowest code as zero point if there is a minimum
    value; the IR has one of the two.
    """
    zero, low = reader.known[zero_point], reader.known[minval]
    if not isinstance(zero, StoredConstant) or not isinstance(low, StoredConstant):
        return None
    if not low.tensor.double().any():
        return {} if not _values(zero).any() else {"zero_point": zero}
    if not zero.dtype.is_integer or (zero.tensor != zero.dtype.minimum).any():
        return None
    return {"minval": low}


def _values(constant: StoredConstant) -> torch.Tensor:
    return constant.tensor if constant.dtype.is_integer else constant.tensor.float()

"""Lowering of the `quant` dialect to Core AI's ops."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen

from graphpress.backends.coreai.ops import register
from graphpress.backends.errors import LoweringError
from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.analysis.facts import QUANTIZERS_CONVERTED
from graphpress.passes.framework.facts import Fact
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass

LOWERED_TO_COREAI = Fact("lowered-to-coreai", "compressed values are Core AI ops")

_WEIGHTS = frozenset(["i2", "u2", "i4", "u4", "i8", "u8", "f8e4m3fn", "f8e5m2", "f4e2m1fn", "f32", "f16", "bf16"])
_ACTIVATIONS = frozenset(["i4", "u4", "i8", "u8", "f8e4m3fn", "f8e5m2"])
_TABLE_SIZES = (2, 4, 8, 16, 64, 256)


@register_pass
@frozen
class LowerToCoreai(Pass):
    """Lower every `quant` op to the equivalent `coreai` op.

    Exact: both have the same formula. Constants are renamed so that the converter distinguishes indices from tables,
    and codes keep their element type beside the container.
    """

    name = "lower-to-coreai"
    needs = frozenset({QUANTIZERS_CONVERTED})
    gives = frozenset({LOWERED_TO_COREAI})
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit every node once."""
        register()
        for node in graph.nodes:
            if node.op.dialect != "quant":
                continue
            context.node = node
            rewriter.replace(node, _LOWERINGS[node.op.short_name](node, rewriter))
            context.count(node.op.short_name)
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)


def _lower_blockwise_shift_scale(node: Node, rewriter: Rewriter) -> Value:
    data, dtype = node.operands["input"], node.attribute("dtype")
    if dtype.value not in _WEIGHTS:
        raise _refused(node, f"weights of {dtype.long_name}", _WEIGHTS)
    if dtype.is_integer and node.operands["scale"].tensor_type.dtype is DType.FLOAT8_E8M0FNU:
        raise LoweringError(
            f"{node.name} ({node.location}): Core AI stores no integers with scales of float8_e8m0fnu; accepted: a "
            "scale_dtype of None, or ExportBackend.Torch"
        )
    operands: dict[str, Any] = {
        "input": _packed_float4(node, rewriter) if dtype is DType.FLOAT4_E2M1FN else data,
        "scale": _ranked(node.operands["scale"], data, "scale", rewriter),
        "zero_point": _zero_point(node, data, rewriter, ranked=True),
        "minval": None
        if node.operand("minval") is None
        else _ranked(node.operands["minval"], data, "minval", rewriter),
    }
    _spread_alike(operands, rewriter)
    return _insert_dequantizing(node, "coreai.constexpr_blockwise_shift_scale", operands, {}, rewriter)


def _spread_alike(operands: dict[str, Any], rewriter: Rewriter) -> None:
    """Expand scale, zero point and minimum value to one shape; folding a norm enlarges the scales only."""
    given = [name for name in ("scale", "zero_point", "minval") if operands[name] is not None]
    shape = torch.broadcast_shapes(*(_constant(operands[name]).tensor.shape for name in given))
    for name in given:
        constant = _constant(operands[name])
        if constant.tensor.shape != shape:
            tensor = constant.tensor.expand(shape).contiguous()
            type = TensorType(constant.type.dtype, tuple(shape))
            operands[name] = _once(rewriter, constant, name, tensor, type)


def _packed_float4(node: Node, rewriter: Rewriter) -> Value:
    """Pack float4 codes, two per byte along the last axis, the first in the lower half."""
    data, scale = node.operands["input"], node.operands["scale"]
    constant = _constant(data)
    if scale.tensor_type.dtype is not DType.FLOAT8_E8M0FNU:
        raise LoweringError(f"{node.name} ({node.location}): Core AI scales float4 by float8_e8m0fnu only")
    if not constant.tensor.ndim or constant.tensor.shape[-1] % 2:
        raise LoweringError(
            f"{node.name} ({node.location}): Core AI stores float4 in pairs along the last axis, which has an odd size "
            f"in {tuple(constant.tensor.shape)}; skip this weight or use another dtype"
        )
    packed = constant.tensor[..., 0::2] | (constant.tensor[..., 1::2] << 4)
    return _once(rewriter, constant, "float4", packed, None)


def _lower_lut_to_dense(node: Node, rewriter: Rewriter) -> Value:
    indices, lut = node.operands["indices"], node.operands["lut"]
    entries = lut.tensor_type.shape[-2]
    if entries not in _TABLE_SIZES:
        raise LoweringError(
            f"{node.name} ({node.location}): Core AI stores tables of {_listed(_TABLE_SIZES)} entries, not {entries}"
        )
    if lut.tensor_type.dtype.value not in _WEIGHTS:
        raise _refused(node, f"tables of {lut.tensor_type.dtype.long_name}", _WEIGHTS)
    base = _base_name(node)
    operands = {
        "indices": _renamed(indices, f"{base}_indices", rewriter),
        "lut": _renamed(lut, f"{base}_lut", rewriter),
    }
    axis = node.attribute("axis") % max(indices.tensor_type.rank, 1)
    return _insert(node, "coreai.lut_to_dense", operands, {"axis": axis}, rewriter)


def _lower_quantize(node: Node, rewriter: Rewriter) -> Value:
    dtype = node.attribute("dtype")
    if dtype.value not in _ACTIVATIONS:
        raise _refused(node, f"activations of {dtype.long_name}", _ACTIVATIONS)
    _require_lowest_code(node)
    operands, axis = _activation_operands(node, rewriter)
    operands["input"] = _cast(operands["input"], operands["scale"].tensor_type.dtype, node, rewriter)
    operands["input"] = _clamped(node, operands["input"], rewriter)
    return _insert(node, "coreai.quantize", operands, {"output_dtype": dtype, "axis": axis}, rewriter)


def _require_lowest_code(node: Node) -> None:
    dtype: DType = node.attribute("dtype")
    if node.operand("minval") is not None and node.attributes.get("quant_min", dtype.minimum) != dtype.minimum:
        raise LoweringError(
            f"{node.name} ({node.location}): quant_min={node.attributes['quant_min']} beside a minimum value; in Core "
            f"AI that value belongs to the lowest code of {dtype.long_name}, {dtype.minimum}"
        )


def _clamped(node: Node, data: Value, rewriter: Rewriter) -> Value:
    """Clamp `data` to the range of the allowed codes, since the lowered op uses all codes of the type."""
    dtype: DType = node.attribute("dtype")
    lowest, highest = (node.attributes.get(name) for name in ("quant_min", "quant_max"))
    if dtype.is_floating or (lowest is None and highest is None):
        return data
    bounds = {name: _value_of(code, node) for name, code in (("min", lowest), ("max", highest)) if code is not None}
    if all(bound.numel() == 1 for bound in bounds.values()):
        return rewriter.insert_before(
            node, "aten.clamp", {"self": data}, {name: bound.item() for name, bound in bounds.items()}
        ).result
    operands = {name: rewriter.add_constant(f"{node.name}_{name}", bound) for name, bound in bounds.items()}
    return rewriter.insert_before(node, "aten.clamp.Tensor", {"self": data} | operands).result


def _value_of(code: int, node: Node) -> torch.Tensor:
    """Return the value of `code`, in the shape of the scale."""
    scale, zero_point, minval = (node.operand(name) for name in ("scale", "zero_point", "minval"))
    assert scale is not None
    codes = torch.full_like(_constant(scale).tensor, code)
    return reference.dequantize(
        codes,
        _constant(scale).tensor,
        None if zero_point is None else _constant(zero_point).tensor,
        None if minval is None else _constant(minval).tensor,
        dtype=node.attribute("dtype"),
    )


def _lower_dequantize(node: Node, rewriter: Rewriter) -> Value:
    operands, axis = _activation_operands(node, rewriter)
    return _insert_dequantizing(node, "coreai.dequantize", operands, {"axis": axis}, rewriter)


def _lower_sparse_to_dense(node: Node, rewriter: Rewriter) -> Value:
    values, mask = node.operands["values"], node.operands["mask"]
    base, dtype = _base_name(node), values.tensor_type.dtype
    if dtype.is_floating and dtype.value not in _WEIGHTS:
        raise _refused(node, f"kept elements of {dtype.long_name}", _WEIGHTS)
    if values.constant is not None and dtype.is_integer and dtype.bits < 8:
        return _small_sparse(node, values.constant, _constant(mask), rewriter)
    operands = {
        "nonzero_data": values if values.constant is None else _renamed(values, f"{base}_nonzero_data", rewriter),
        "mask": _renamed(mask, f"{base}_mask", rewriter),
    }
    return _insert(node, "coreai.sparse_to_dense", operands, {}, rewriter)


def _small_sparse(node: Node, values: Constant, mask: Constant, rewriter: Rewriter) -> Value:
    """Store sparse codes of less than 8 bits as 8-bit kept codes, or as all codes if that is smaller."""
    kept, type = values.tensor.numel(), node.result.tensor_type
    base = _base_name(node)
    if not mask.tensor.numel() + 8 * kept < mask.tensor.numel() * type.dtype.bits:
        codes = reference.sparse_to_dense(values.tensor, mask.tensor)
        return rewriter.add_constant(f"{base}_codes_dense", codes, type=type)
    operands = {
        "nonzero_data": rewriter.add_constant(f"{base}_nonzero_data", values.tensor),
        "mask": _renamed(mask.value, f"{base}_mask", rewriter),
    }
    held = TensorType(DType.of(values.tensor.dtype), type.shape)
    return rewriter.insert_before(node, "coreai.sparse_to_dense", operands, types=[held], name=node.name).result


_LOWERINGS = {
    "blockwise_shift_scale": _lower_blockwise_shift_scale,
    "lut_to_dense": _lower_lut_to_dense,
    "quantize": _lower_quantize,
    "dequantize": _lower_dequantize,
    "sparse_to_dense": _lower_sparse_to_dense,
}


def _activation_operands(node: Node, rewriter: Rewriter) -> tuple[dict[str, Any], int]:
    """Return the operands of quantize and dequantize: one entry, or one per index along an axis."""
    scale = node.operands["scale"].tensor_type
    wide = [axis for axis, dim in enumerate(scale.shape) if dim != 1]
    dims = node.operands["input"].tensor_type.shape
    if len(wide) > 1 or (wide and scale.shape[wide[0]] != dims[wide[0]]):
        raise LoweringError(
            f"{node.name} ({node.location}): Core AI quantizes activations per tensor or per channel, not in blocks"
        )
    operands: dict[str, Any] = {
        "input": node.operands["input"],
        "scale": _flat(node.operands["scale"], "scale", rewriter),
        "zero_point": _zero_point(node, node.operands["input"], rewriter, ranked=False),
        "minval": None if node.operand("minval") is None else _flat(node.operands["minval"], "minval", rewriter),
    }
    return operands, wide[0] if wide else 0


def _zero_point(node: Node, data: Value, rewriter: Rewriter, *, ranked: bool) -> Value | None:
    """Return the zero point in the element type of the codes."""
    value = node.operand("zero_point")
    if value is None:
        return None
    dtype: DType = node.attribute("dtype")
    constant = _constant(value)
    tensor = constant.tensor
    tensor = tensor.reshape((1,) * data.tensor_type.rank) if ranked and not tensor.ndim else tensor
    tensor = tensor if ranked else along_one_axis(tensor)
    codes = tensor.round().to(dtype.torch_dtype)
    return _once(rewriter, constant, "zero_point", codes, TensorType(dtype, codes.shape))


def _ranked(value: Value, data: Value, role: str, rewriter: Rewriter) -> Value:
    constant = _constant(value)
    if constant.tensor.ndim:
        return value
    tensor = constant.tensor.reshape((1,) * data.tensor_type.rank)
    return _once(rewriter, constant, role, tensor, None)


def _flat(value: Value, role: str, rewriter: Rewriter) -> Value:
    """Return a constant with no axis, or one; the converter reshapes others, bfloat16 at run time."""
    constant = _constant(value)
    flat = along_one_axis(constant.tensor)
    return value if flat.shape == constant.tensor.shape else _once(rewriter, constant, role, flat, None)


def along_one_axis(parameters: torch.Tensor) -> torch.Tensor:
    """Return quantization parameters as a 0-d tensor, or with one entry per index along an axis."""
    return parameters.reshape(() if parameters.numel() == 1 else -1)


def _once(rewriter: Rewriter, constant: Constant, role: str, tensor: Any, type: TensorType | None) -> Value:
    """Return a derived constant, reusing an earlier one, so that shared parameters stay shared."""
    name = f"{constant.name}_{role}_{'x'.join(map(str, tensor.shape)) or 'scalar'}_{tensor.dtype}".replace("torch.", "")
    known = rewriter.graph.constants.get(name)
    if known is not None:
        return known.value
    return rewriter.add_constant(name, tensor, type=type)


def _renamed(value: Value, name: str, rewriter: Rewriter) -> Value:
    """Rename a constant, since the converter distinguishes indices from tables by name, and make it persistent."""
    constant = _constant(value)
    if constant.kind == "buffer" and constant.persistent and constant.name == name:
        return value
    if value.use_count > 1 and constant.kind == "buffer" and constant.persistent:
        return value
    return rewriter.add_constant(name, constant.tensor, type=constant.type)


def _base_name(node: Node) -> str:
    root = root_constant(node.result)
    name = root.name if root is not None else node.name
    for suffix in ("_folded", "_indices", "_lut", "_codes", "_nonzero_data"):
        name = name.removesuffix(suffix)
    return name


def _constant(value: Value) -> Constant:
    if value.constant is None:
        raise LoweringError(f"{value.name} is computed, but Core AI needs a constant there; run fold-constants first")
    return value.constant


def _insert_dequantizing(
    node: Node, op: str, operands: dict[str, Any], attributes: dict[str, Any], rewriter: Rewriter
) -> Value:
    """The lowered node. It computes in the dtype of the scale, and gives that dtype unless scales are powers of two: a
    model of another dtype gets a cast, so that it is rounded once, as in the reference.

    Asked for another dtype itself, the runtime (1.0.0b3) ends the process on tables of float8 in a model of float16.
    """
    dtype, type = node.attribute("dtype"), node.result.tensor_type
    _require_lowest_code(node)
    scale = operands["scale"].tensor_type.dtype
    by_scale = dtype.is_integer or scale is not DType.FLOAT8_E8M0FNU
    # The converter asks for the bits of integers only, and knows floats by the data.
    attributes |= {"input_dtype": dtype if dtype.is_integer else None}
    attributes |= {"output_dtype": None if by_scale else type.dtype}
    types = [type.with_dtype(scale) if by_scale else type]
    attributes |= {name: None for name, value in operands.items() if value is None}
    made = rewriter.insert_before(node, op, operands, attributes, types=types, name=node.name)
    return _cast(made.result, type.dtype, node, rewriter)


def _cast(value: Value, dtype: DType, node: Node, rewriter: Rewriter) -> Value:
    if value.tensor_type.dtype is dtype:
        return value
    types = [value.tensor_type.with_dtype(dtype)]
    return rewriter.insert_before(
        node, "aten.to.dtype", {"self": value}, {"dtype": dtype}, types=types, name=f"{node.name}_cast"
    ).result


def _insert(node: Node, op: str, operands: dict[str, Any], attributes: dict[str, Any], rewriter: Rewriter) -> Value:
    """Insert the lowered node, with absent operands as None, since the converter reads arguments by position."""
    attributes |= {name: None for name, value in operands.items() if value is None}
    return rewriter.insert_before(
        node, op, operands, attributes, types=[result.type for result in node.results], name=node.name
    ).result


def _refused(node: Node, what: str, accepted: frozenset[str]) -> LoweringError:
    names = _listed(DType(value).long_name for value in sorted(accepted))
    return LoweringError(f"{node.name} ({node.location}): Core AI stores no {what}; accepted: {names}")


def _listed(items: Any) -> str:
    return ", ".join(map(str, items))

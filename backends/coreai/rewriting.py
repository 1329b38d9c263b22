"""Weight compression of Core AI programs without a torch model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphpress.backends.coreai import ops
from graphpress.backends.coreai.importing.program import functions, public, sketch
from graphpress.backends.coreai.ops import packed
from graphpress.backends.errors import AssetError, ConversionError
from graphpress.backends.importing.weights import StoredWeight, compress
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Node, Value
from graphpress.passes.framework import Pipeline


def rewrite(program: Any, pipeline: Pipeline, *, in_place: bool = False) -> Any:
    """Return a Core AI program like `program`, with its weights replaced by the passes of `pipeline`.

    The passes run on an import of each function. Only the replaced weights change in the program; dynamic dims, states
    and untranslated ops are preserved.

    Args:
        program: an `AIProgram`, from the converter or an asset.
        pipeline: passes that replace weights, such as `quantize-weights`.
        in_place: whether to change `program` itself.

    Raises:
        AssetError: if `program` is of another type.
        ConversionError: if the resulting program is invalid.
        GraphpressError: from a pass, about its options or a weight.
    """
    asset = ops.require("coreai.authoring.asset")
    if not isinstance(program, asset.AIProgram):
        raise AssetError(f"a {type(program).__name__} is not a Core AI program; expected an AIProgram")
    if not in_place:
        module = asset.clone_module(module=program._module._mlir_module)
        program = asset.AIProgram._from_mlir_module(module)
    for function in public(functions(program)):
        weights = compress(*sketch(program, function), pipeline)
        try:
            _replace(program, weights)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConversionError(f"the rewritten program is invalid: {type(error).__name__}: {error}") from error
    return program


def _replace(program: Any, weights: list[StoredWeight]) -> None:
    ir = ops.require("coreai._compiler.ir")
    with program._module._mlir_module.context, ir.Location.unknown():
        for weight in weights:
            before = weight.origin.owner
            with ir.InsertionPoint(before):
                made = _Builder(ir).value(weight.value)
            weight.origin.replace_all_uses_with(made)
            before.erase()
        program._module.verify()


class _Builder:
    """Inserts ops into a Core AI program, before the replaced op."""

    def __init__(self, ir: Any) -> None:
        self._ir = ir
        self._mlir = ops.require("coreai._compiler._mlir_libs._coreaiIR._bindings.mlir").dialects.coreai
        self._ops = ops.require("coreai._compiler.dialects.coreai")
        self._types = ops.require("coreai_torch._type_mapping").TORCH_TO_COREAI_DTYPE

    def value(self, value: Value) -> Any:
        """Return the program value for `value`, which is a constant or `quant` ops over constants."""
        if value.constant is not None:
            return self._constant(value.constant.tensor, value.tensor_type.dtype)
        assert value.node is not None
        return getattr(self, f"_{value.node.op.short_name}")(value.node)

    def _lut_to_dense(self, node: Node) -> Any:
        axis = self._ops.constant(np.array(node.attribute("axis"), dtype=np.int16))
        return self._ops.lut_to_dense(self.value(node.operands["indices"]), self.value(node.operands["lut"]), axis)

    def _sparse_to_dense(self, node: Node) -> Any:
        places = self._constant(_data(node.operands["mask"]).to(torch.uint8), DType.UINT1)
        kept = self._ops.build_sparse_with_bitmask(self.value(node.operands["values"]), places)
        return self._ops.sparse_with_bitmask_to_dense(kept)

    def _blockwise_shift_scale(self, node: Node) -> Any:
        """Emit ``(data - zero point) * scale`` per block, in the dtype of the scale, at least 16 bits wide."""
        scale, zero_point = node.operands["scale"], node.operand("zero_point")
        rank = node.result.tensor_type.rank
        steps = _ranked(_data(scale), rank)
        dtype, wanted = node.attribute("dtype"), node.result.tensor_type.dtype
        computed = wanted if scale.tensor_type.dtype.bits < 16 else scale.tensor_type.dtype
        zeros = torch.zeros(steps.shape) if zero_point is None else _ranked(_data(zero_point), rank).round()
        scaled = self._ops.blockwise_shift_scale(
            self.value(node.operands["input"]),
            self._constant(steps, scale.tensor_type.dtype),
            self._constant(zeros.expand(steps.shape).to(dtype.torch_dtype), dtype),
            self._constant(torch.zeros(steps.shape, dtype=computed.torch_dtype), computed),
        )
        return scaled if computed is wanted else self._ops.cast(scaled, self._element_type(wanted))

    def _constant(self, tensor: Tensor, dtype: DType) -> Any:
        """Emit a constant of `dtype`; sub-byte codes are passed one per byte."""
        data = tensor.detach().contiguous()
        if dtype.bits >= 8 and (dtype.is_integer or dtype.bits >= 16):
            return self._ops.constant(data.numpy())
        raw = data.view(torch.uint8).numpy()
        kind = self._ir.RankedTensorType.get(list(tensor.shape), self._element_type(dtype))
        held = packed(raw, dtype.bits) if dtype.bits < 8 else raw
        attribute = self._mlir.create_elements_attr(self._ir.Location.unknown(), kind, held)
        return self._ops.ConstantOp(value=attribute).result

    def _element_type(self, dtype: DType) -> Any:
        name = "float4_e2m1fn_x2" if dtype is DType.FLOAT4_E2M1FN else dtype.long_name
        return self._types[getattr(torch, name)]()


def _data(value: Value) -> Tensor:
    assert value.constant is not None
    return value.constant.tensor.detach()


def _ranked(parameters: Tensor, rank: int) -> Tensor:
    return parameters if parameters.ndim else parameters.reshape((1,) * rank)

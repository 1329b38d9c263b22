"""Raising of Core AI's ops to the `quant` dialect, for further compression of finalized models."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class RaiseFromCoreai(Pass):
    """Raise ``coreai.lut_to_dense`` and similar ops to the `quant` ops they were lowered from.

    Exact: both have the same formula. The bit width of codes is that of the op's dtype argument, or follows from the
    size of the table.
    """

    name = "raise-from-coreai"
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit once every node that has an ATen form."""
        for node in graph.nodes_of(lambda op: op.name in _RAISED):
            raised = _RAISED[node.op.name]
            operands = {raised[1].get(name, name): value for name, value in node.operands.items()}
            if is_packed_float4(node):
                operands["input"] = _unpacked(node, rewriter)
            made = rewriter.insert_before(
                node,
                raised[0],
                operands,
                _attributes(node),
                types=[result.type for result in node.results],
                name=node.name,
            )
            rewriter.replace(node, made.result)
            context.count(node.op.short_name)


_RAISED: dict[str, tuple[str, dict[str, str]]] = {
    "coreai.lut_to_dense": ("quant.lut_to_dense", {}),
    "coreai.constexpr_blockwise_shift_scale": ("quant.blockwise_shift_scale", {}),
    "coreai.sparse_to_dense": ("quant.sparse_to_dense", {"nonzero_data": "values"}),
}


def _attributes(node: Node) -> dict[str, Any]:
    if node.op.short_name == "lut_to_dense":
        return {"axis": node.attribute("axis")}
    if node.op.short_name == "sparse_to_dense":
        return {}
    dtype = DType.FLOAT4_E2M1FN if is_packed_float4(node) else node.attributes.get("input_dtype")
    if dtype is None:
        dtype = node.operands["input"].tensor_type.dtype
    dtype = DType.of(dtype) if isinstance(dtype, torch.dtype | str) else dtype
    return {"dtype": dtype, "output_dtype": node.result.tensor_type.dtype}


def is_packed_float4(node: Node) -> bool:
    """Return True for packed float4, two codes per byte, recognized by the types of codes and scale."""
    if node.op.name != "coreai.constexpr_blockwise_shift_scale":
        return False
    data, scale = (node.operands[name].tensor_type.dtype for name in ("input", "scale"))
    return data is DType.UINT8 and scale is DType.FLOAT8_E8M0FNU


def _unpacked(node: Node, rewriter: Rewriter) -> Value:
    constant = node.operands["input"].constant
    assert constant is not None
    codes = torch.stack([constant.tensor & 15, constant.tensor >> 4], -1).flatten(-2)
    return rewriter.add_constant(f"{constant.name}_codes", codes, type=TensorType(DType.FLOAT4_E2M1FN, codes.shape))

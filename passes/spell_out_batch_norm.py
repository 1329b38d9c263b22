"""Expansion of unfolded batch norms."""

from __future__ import annotations

import torch
from attrs import frozen

from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class SpellOutBatchNorm(Pass):
    """Replace a batch norm with constant statistics by a product and a sum with constants.

    ``(x - mean) / sqrt(var + eps) * weight + bias`` is ``x * factor + shift``: one rounding fewer, and no square root
    at run time. In 16 bits both are computed in float32, as torch does, and rounded once.
    """

    effect = CLOSE(rtol=1e-5, atol=1e-5)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Expand every batch norm."""
        for node in graph.nodes_of(lambda op: op.name == "aten.batch_norm"):
            if node.attribute("training"):
                continue
            context.node = node
            tensors = _statistics(node)
            if tensors is None:
                continue
            type = node.result.tensor_type
            shape = (-1, *[1] * (type.rank - 2))
            tensors = {name: tensor.float() for name, tensor in tensors.items()}
            factor = reference.batch_norm_factor(tensors["running_var"], tensors.get("weight"), node.attribute("eps"))
            shift = reference.batch_norm_bias(factor, tensors["running_mean"], tensors.get("bias"), None)
            scaled = rewriter.insert_before(
                node,
                "aten.mul.Tensor",
                {
                    "self": _cast(node.operands["input"], DType.FLOAT32, node, rewriter),
                    "other": rewriter.add_constant(f"{node.name}_factor", factor.reshape(shape)),
                },
                name=f"{node.name}_scaled",
            )
            operands = {
                "self": scaled.result,
                "other": rewriter.add_constant(f"{node.name}_shift", shift.reshape(shape)),
            }
            made = rewriter.insert_before(node, "aten.add.Tensor", operands, name=node.name).result
            rewriter.replace(node, _cast(made, type.dtype, node, rewriter))
            context.count("spelled out")
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)


def _cast(value: Value, dtype: DType, before: Node, rewriter: Rewriter) -> Value:
    if value.tensor_type.dtype is dtype:
        return value
    return rewriter.insert_before(before, "aten._to_copy", {"self": value}, {"dtype": dtype}).result


def _statistics(node: Node) -> dict[str, torch.Tensor] | None:
    """The constants of a norm by name; None if running statistics are absent or computed by the model."""
    tensors: dict[str, torch.Tensor] = {}
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = node.operand(name)
        if value is None:
            continue
        if value.constant is None or value.constant.is_mutated:
            return None
        tensors[name] = value.constant.tensor.detach()
    return tensors if "running_mean" in tensors and "running_var" in tensors else None

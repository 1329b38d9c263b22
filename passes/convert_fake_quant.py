"""Conversion of calibrated fake-quantizers to codes."""

from __future__ import annotations

import torch
from attrs import frozen

from graphpress.ir import reference
from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.analysis.facts import CONSTANTS_FOLDED, QUANTIZERS_CONVERTED, QUANTIZERS_INSERTED
from graphpress.passes.analysis.weights import sparse_parts
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights.quantize import code_bounds, require_finite, stored_codes


@register_pass
@frozen
class ConvertFakeQuant(Pass):
    """Replace fake-quantizers by quantize and dequantize for activations, and by stored codes for weights.

    Exact, because a fake-quantizer is defined as these two steps; only the sign of zero, which codes do not have, may
    be lost. A fake-quantizer without parameters saw no data and is an identity; it is removed, with a report.
    """

    needs = frozenset({QUANTIZERS_INSERTED, CONSTANTS_FOLDED})
    gives = frozenset({QUANTIZERS_CONVERTED})
    effect = CLOSE(rtol=0, atol=0)
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Convert every fake-quantizer."""
        for node in graph.nodes_of(lambda op: op.name == "quant.fake_quantize"):
            context.node = node
            value = node.operand("input")
            assert value is not None
            if node.operand("scale") is None:
                context.report(node, "no data reached this quantizer, so its value is not quantized")
                rewriter.replace(node, value)
            elif value.constant is not None and not value.constant.is_mutated:
                rewriter.replace(node, self._stored(node, value.constant, value.constant.tensor, rewriter))
                context.count("weights")
            elif (parts := sparse_parts(value)) is not None and all(part.constant is not None for part in parts):
                rewriter.replace(node, self._sparse(node, *parts, rewriter))
                context.count("weights")
            else:
                rewriter.replace(node, self._computed(node, value, rewriter))
                context.count("activations")
        for node in reversed(graph.nodes):
            if node.op.name == "quant.sparse_to_dense" and node.is_dead:
                rewriter.erase(node)
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)

    def _stored(self, node: Node, weight: Constant, tensor: torch.Tensor, rewriter: Rewriter) -> Value:
        """The stored codes of `tensor`, the value of `weight`."""
        return self._dequantized(node, weight, tensor, None, rewriter)

    def _sparse(self, node: Node, values: Value, places: Value, rewriter: Rewriter) -> Value:
        """The stored codes of a pruned weight: of kept elements only, if zero has code 0 and a mask saves space."""
        kept, mask = values.constant, places.constant
        assert kept is not None
        assert mask is not None
        has_zero = node.operand("minval") is None and _is_zero(node.operand("zero_point"))
        dense = reference.sparse_to_dense(kept.tensor.detach(), mask.tensor)
        return self._dequantized(node, kept, dense, mask if has_zero else None, rewriter)

    def _dequantized(
        self, node: Node, weight: Constant, tensor: torch.Tensor, mask: Constant | None, rewriter: Rewriter
    ) -> Value:
        base = _base(weight)
        require_finite(tensor, base)
        stored = stored_codes(_codes(node, tensor), node.attribute("dtype"), base, mask, node, rewriter)
        return _dequantize("quant.blockwise_shift_scale", node, stored, f"{base}_dequantized", rewriter)

    def _computed(self, node: Node, value: Value, rewriter: Rewriter) -> Value:
        operands = {"input": value, **_codes_operands(node, rewriter)}
        attributes = {"dtype": node.attribute("dtype"), **_code_bounds(node)}
        codes = rewriter.insert_before(node, "quant.quantize", operands, attributes, name=f"{node.name}_quantize")
        return _dequantize("quant.dequantize", node, codes.result, f"{node.name}_dequantize", rewriter)


def _base(weight: Constant) -> str:
    """The name of the parameter that a constant is derived from."""
    root = root_constant(weight.value)
    assert root is not None
    return root.name.removesuffix("_folded").removesuffix("_nonzero_data")


def _codes(node: Node, tensor: torch.Tensor) -> torch.Tensor:
    scale, zero_point, minval = _parameters(node)
    return reference.quantize(
        tensor.detach(),
        scale.tensor,
        None if zero_point is None else zero_point.tensor,
        None if minval is None else minval.tensor,
        _offset(node),
        dtype=node.attribute("dtype"),
        **_code_bounds(node),
    )


def _is_zero(zero_point: Value | None) -> bool:
    return zero_point is None or (zero_point.constant is not None and not bool(zero_point.constant.tensor.any()))


def _dequantize(op: str, node: Node, codes: Value, name: str, rewriter: Rewriter) -> Value:
    attributes = {"dtype": node.attribute("dtype"), "output_dtype": node.result.tensor_type.dtype}
    operands = {"input": codes, **_codes_operands(node, rewriter)}
    return rewriter.insert_before(node, op, operands, attributes, name=name.replace(".", "_")).result


def _codes_operands(node: Node, rewriter: Rewriter) -> dict[str, Value | None]:
    return {name: node.operand(name) for name in ("scale", "zero_point", "minval")}


def _parameters(node: Node) -> tuple[Constant, Constant | None, Constant | None]:
    scale, zero_point, minval = (node.operand(name) for name in ("scale", "zero_point", "minval"))
    assert scale is not None
    assert scale.constant is not None
    return (
        scale.constant,
        None if zero_point is None else zero_point.constant,
        None if minval is None else minval.constant,
    )


def _offset(node: Node) -> torch.Tensor | None:
    """The offset of each code of a weight from the nearest code."""
    offset = node.operand("offset")
    return None if offset is None or offset.constant is None else offset.constant.tensor


def _code_bounds(node: Node) -> dict[str, int]:
    dtype, low, high = (node.attribute(name) for name in ("dtype", "quant_min", "quant_max"))
    return {} if dtype.is_floating else code_bounds(dtype, low, high, counts_up=node.operand("minval") is not None)

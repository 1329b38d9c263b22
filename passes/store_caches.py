"""Storage of key-value caches as codes."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, Node, Output, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.caches import CacheUpdate, sources
from graphpress.passes.analysis.facts import QUANTIZERS_CONVERTED
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class StoreCaches(Pass):
    """Store key-value caches as codes, dequantized after the update instead of before it.

    Exact, because the op only moves values and everything it moves has one scale.
    """

    needs = frozenset({QUANTIZERS_CONVERTED})
    effect = CLOSE(rtol=0, atol=0)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit every annotated op."""
        for node in graph.nodes:
            note = node.annotation(CacheUpdate)
            if note is None:
                continue
            context.node = node
            cache = node.operands[note.cache].constant
            quantize = _quantized(node)
            if cache is None or quantize is None:
                context.report(node, "no data reached its quantizer, so the cache is not quantized")
                continue
            self._store(node, note, cache, quantize, rewriter)
            context.count("caches")

    def _store(self, node: Node, note: CacheUpdate, cache: Constant, quantize: Node, rewriter: Rewriter) -> None:
        dtype: DType = quantize.attribute("dtype")
        parameters = {name: quantize.operand(name) for name in ("scale", "zero_point", "minval")}
        bounds: dict[str, Any] = {
            name: quantize.attributes[name] for name in ("quant_min", "quant_max") if name in quantize.attributes
        }
        operands: dict[str, Any] = dict(node.operands)
        for name, index in sources(node, note):
            value = operands[name] if index is None else operands[name][index]
            codes = _codes_of(value, parameters)
            if codes is None:
                how = {"dtype": dtype, **bounds}
                codes = rewriter.insert_before(node, "quant.quantize", {"input": value, **parameters}, how).result
            if index is None:
                operands[name] = codes
            else:
                items = list(operands[name])
                items[index] = codes
                operands[name] = tuple(items)
        self._turn_into_codes(cache, dtype, parameters, bounds)
        for user in [user for user in cache.value.users if isinstance(user, Node) and user is not node]:
            self._dequantize_for(user, cache, dtype, parameters, rewriter)
        moved = rewriter.insert_before(
            node, node.op, operands, node.attributes, types=[cache.type], name=f"{node.name}_codes"
        )
        dequantize = quantize.result.users[0]
        rewriter.replace_uses(
            dequantize.result,
            moved.result,
            where=lambda use: isinstance(use.user, Output) and use.user.target is cache.value,
        )
        rewriter.set_operand(dequantize, "input", moved.result)
        rewriter.erase(quantize)
        rewriter.erase(node)

    def _turn_into_codes(
        self, cache: Constant, dtype: DType, parameters: dict[str, Value | None], bounds: dict[str, Any]
    ) -> None:
        tensors: dict[str, Any] = {
            name: value.constant.tensor
            for name, value in parameters.items()
            if value is not None and value.constant is not None
        }
        codes = reference.quantize(cache.tensor.detach(), **tensors, dtype=dtype, **bounds)
        cache._tensor, cache.digest = codes, None
        cache.value.type = TensorType(dtype, codes.shape)

    def _dequantize_for(
        self, user: Node, cache: Constant, dtype: DType, parameters: dict[str, Value | None], rewriter: Rewriter
    ) -> None:
        """Dequantize the cache for other readers of its value before the update."""
        values = rewriter.insert_before(
            user,
            "quant.dequantize",
            {"input": cache.value, **parameters},
            {"dtype": dtype, "output_dtype": DType.FLOAT32},
        )
        for name, index, value in list(user.operand_values()):
            if value is cache.value and index is None:
                rewriter.set_operand(user, name, values.result)


def _quantized(node: Node) -> Node | None:
    """The node that quantizes the result of the update."""
    users = [user for user in node.result.users if isinstance(user, Node)]
    found = [user for user in users if user.op.name == "quant.quantize"]
    return found[0] if len(users) == 1 and found else None


def _codes_of(value: Value, parameters: dict[str, Value | None]) -> Value | None:
    """The codes that `value` is dequantized from with these parameters."""
    node = value.node
    if node is None or node.op.name != "quant.dequantize":
        return None
    same = all(node.operand(name) is parameters[name] for name in parameters)
    return node.operands["input"] if same else None

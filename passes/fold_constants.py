"""Constant folding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import is_foldable, root_constant
from graphpress.passes.analysis.facts import CONSTANTS_FOLDED
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass

# Buffers that are weights, or the kept elements of pruned ones.
_WEIGHTS = ("_folded", "_nonzero_data")


@register_pass
@frozen
class FoldConstants(Pass):
    """Replace ops whose operands are all constants by their results, evaluated by the interpreter.

    Compressed weights stay in their stored form, and fake-quantizers stay for `convert-fake-quant`.

    Attributes:
        growth: skip an op whose results have more than this many times the elements of its operands (and more than
            1,024), because folding it would increase the size of the model.
    """

    gives = frozenset({CONSTANTS_FOLDED})
    is_idempotent = True

    growth: float = 4.0

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Evaluate nodes in order, then replace the values that remaining nodes read by constants."""
        known: dict[int, torch.Tensor] = {}
        folded: dict[int, Node] = {}
        for node in graph.nodes:
            if self._should_fold(node, known):
                context.node = node
                results = evaluate_node(node, lambda value: _tensor(value, known))
                known.update((id(value), tensor) for value, tensor in zip(node.results, results, strict=True))
                folded[id(node)] = node
                context.count("folded")
        for node in folded.values():
            context.node = node
            for result in node.results:
                if any(id(use.user) not in folded for use in result.uses):
                    data = known[id(result)].detach()
                    value = rewriter.add_constant(_name(node), data, "buffer", type=result.tensor_type)
                    rewriter.replace_uses(result, value, where=lambda use: id(use.user) not in folded)
        for node in reversed(folded.values()):
            context.node = node
            read = [value.constant for _, _, value in node.operand_values()]
            rewriter.erase(node)
            for constant in dict.fromkeys(read):
                if constant is not None and not constant.value.use_count:
                    rewriter.erase_constant(constant)

    def _should_fold(self, node: Node, known: Mapping[int, torch.Tensor]) -> bool:
        if node.op.dialect == "quant" or not is_foldable(node):
            return False
        if not all(isinstance(result.type, TensorType) and result.type.is_static for result in node.results):
            return False
        values = [value for _, _, value in node.operand_values()]
        if any(_tensor(value, known) is None for value in values):
            return False
        made = sum(_numel(result.tensor_type) for result in node.results)
        return made <= max(1024, self.growth * sum(_numel(value.tensor_type) for value in values))


def _tensor(value: Value, known: Mapping[int, torch.Tensor]) -> torch.Tensor | None:
    """The tensor of a value that is known before the graph runs; else None."""
    constant = value.constant
    if constant is None:
        return known.get(id(value))
    return constant.tensor if constant.has_data and not constant.is_mutated else None


def _name(node: Node) -> str:
    """A name after the parameter that the constant is derived from, or after the node for statistics of a norm."""
    root = root_constant(node.results[0])
    if root is None or (node.op.dialect == "fold" and root.kind == "buffer" and not root.name.endswith(_WEIGHTS)):
        return node.name
    return f"{root.name.removesuffix('_folded')}_folded"


def _numel(type: TensorType) -> int:
    count = 1
    for extent in type.shape:
        count *= int(extent)  # type: ignore[arg-type]
    return count

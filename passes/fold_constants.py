"""Evaluate what depends on constants only."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph, Node
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import is_foldable, root_constant
from graphpress.passes.facts import CONSTANTS_FOLDED
from graphpress.passes.framework.context import PassContext
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class FoldConstants(Pass):
    """Replace ops whose operands are all constants by their results, evaluated by the interpreter.

    Compressed weights are left in their stored form, since expanding them is what a compressed model avoids, and so
    are fake-quantizers, which `convert-fake-quant` turns into such a form.

    Attributes:
        growth: leave an op whose results hold more than this many times the elements of its operands (and more than
            1,024): folding it would make the file bigger than the op.
    """

    gives = frozenset({CONSTANTS_FOLDED})

    growth: float = 4.0

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit every node once, in order: what was folded before is a constant now."""
        for node in graph.nodes:
            if not self._should_fold(node):
                continue
            context.node = node
            results = evaluate_node(node, lambda value: value.constant.tensor)  # type: ignore[union-attr]
            root = root_constant(node.results[0])
            base = root.name if root is not None else node.name
            names = [f"{base}_folded" for _ in results]
            values = [
                rewriter.add_constant(name, tensor.detach(), "buffer", type=result.tensor_type)
                for name, tensor, result in zip(names, results, node.results, strict=True)
            ]
            rewriter.replace(node, values)
            context.count("folded")
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)

    def _should_fold(self, node: Node) -> bool:
        if node.op.dialect == "quant" or not is_foldable(node):
            return False
        if not all(isinstance(result.type, TensorType) and result.type.is_static for result in node.results):
            return False
        values = [value for _, _, value in node.operand_values()]
        if any(v.constant is None or v.constant.is_mutated or not v.constant.has_data for v in values):
            return False
        made = sum(_numel(result.tensor_type) for result in node.results)
        return made <= max(1024, self.growth * sum(_numel(v.tensor_type) for v in values))


def _numel(type: TensorType) -> int:
    count = 1
    for extent in type.shape:
        count *= int(extent)  # type: ignore[arg-type]
    return count

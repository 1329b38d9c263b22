"""Dead code elimination."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import EXACT, Pass, PassContext, register_pass


@register_pass
@frozen
class Dce(Pass):
    """Remove unread pure nodes and unread constants.

    Sound because a pure node has no effect but its results. Nodes with a side effect and their operands stay, and so do
    buffers that the graph writes to. One sweep from the last node to the first finds all dead nodes, because the users
    of a node come after it.
    """

    effect = EXACT
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Remove dead nodes, then unread constants."""
        for node in reversed(graph.nodes):
            if node.is_dead:
                rewriter.erase(node)
                context.count("nodes")
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:  # a write to it is a use
                rewriter.erase_constant(constant)
                context.count("constants")

"""Dead code elimination."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import EXACT, Pass, PassContext, register_pass


@register_pass
@frozen
class Dce(Pass):
    """Removes what nothing reads: pure nodes, and constants.

    Sound since a pure node leaves nothing but its results behind. Nodes with an effect stay, and with them all they
    read; buffers that a run of the graph writes to stay too. One sweep from the last node to the first finds all, for
    a node's users come after it.
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
            if not constant.value.use_count:  # being written to is a use
                rewriter.erase_constant(constant)
                context.count("constants")

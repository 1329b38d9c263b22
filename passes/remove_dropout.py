"""Removal of dropouts."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import is_idle_dropout
from graphpress.passes.framework import EXACT, Pass, PassContext, register_pass


@register_pass
@frozen
class RemoveDropout(Pass):
    """Remove dropouts, which are identities in evaluation mode.

    Sound because a dropout captured in evaluation mode returns its operand.
    """

    effect = EXACT

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Remove every dropout."""
        for node in graph.nodes:
            if is_idle_dropout(node):
                context.node = node
                value = node.operand("input")
                assert value is not None
                rewriter.replace(node, value)
                context.count(node.op.family)

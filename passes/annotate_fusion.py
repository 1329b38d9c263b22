"""Annotation of fusion groups: ops that a backend runs as one."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Graph, Node
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.facts import CANONICAL, FUSION_ANNOTATED
from graphpress.passes.analysis.fusion import FusionGroup, FusionPattern, Role, fusion_patterns
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@register_pass
@frozen
class AnnotateFusion(Pass):
    """Annotate every node that starts, continues or ends a fusion group.

    Only annotations are added, so the numbers cannot change. Groups do not overlap: a node
    belongs to the first group that reaches it in execution order, longest pattern first.
    """

    needs = frozenset({CANONICAL})
    gives = frozenset({FUSION_ANNOTATED})
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit each node whose op begins a fusion pattern."""
        by_first: dict[str, list[FusionPattern]] = {}
        for pattern in fusion_patterns():
            for family in pattern.chain[0]:
                by_first.setdefault(family, []).append(pattern)
        constant: set[int] | None = None  # computed on first use: most nodes begin no pattern
        for node in graph.nodes_of(lambda op: op.family in by_first):
            if FusionGroup in node.annotations or not _computes(node):  # `in` reads no annotation
                continue
            constant = constant_values(graph) if constant is None else constant
            if id(node.results[0]) in constant:
                continue
            for pattern in by_first[node.op.family]:
                chain = _match(node, pattern)
                if chain is not None:
                    _mark(chain, pattern, rewriter)
                    context.count(pattern.name)
                    break


def _computes(node: Node) -> bool:
    return bool(node.results) and node.results[0].is_floating


def _match(anchor: Node, pattern: FusionPattern) -> list[Node] | None:
    chain = [anchor]
    for families in pattern.chain[1:]:
        last = chain[-1]
        uses = last.results[0].uses
        if len(last.results) != 1 or len(uses) != 1 or not isinstance(uses[0].user, Node):
            return None
        following = uses[0].user
        if following.op.family not in families or FusionGroup in following.annotations:
            return None
        chain.append(following)
    return chain


def _mark(chain: list[Node], pattern: FusionPattern, rewriter: Rewriter) -> None:
    for place, node in enumerate(chain):
        role = Role.ANCHOR if place == 0 else Role.TAIL if place == len(chain) - 1 else Role.MEMBER
        role = Role.WHOLE if len(chain) == 1 else role
        rewriter.annotate(node, FusionGroup(chain[0].name, pattern.name, role))

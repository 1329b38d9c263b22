"""Explanations of why a rule did not match, by its nearest misses."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from graphpress.ir.graph import Graph, Node
from graphpress.passes.framework.match import Match, Miss
from graphpress.passes.framework.rules import Rule


@frozen(eq=False)
class Explanation:
    """The result of trying a rule at every node.

    Attributes:
        rule: the rule.
        matches: the matches.
        misses: the failed attempts, the nearest first.
    """

    rule: Rule
    matches: tuple[Match, ...]
    misses: tuple[Miss, ...]

    def __str__(self) -> str:
        lines = [f"{self.rule.name}: {len(self.matches)} matches, {len(self.misses)} near misses"]
        lines += [f"match at {match.root.name}, {match.root.location}" for match in self.matches]
        lines += map(str, self.misses)
        if not self.matches and not self.misses:
            lines.append(f"no node is {' or '.join(root.title for root in self.rule.roots)}, where a match would start")
        return "\n".join(lines)


def explain(rule: Rule, graph: Graph, node: Node | None = None, most: int = 10) -> Explanation:
    """Try `rule` at every possible root node, or, with `node`, where that node would take part in the match.

    Args:
        rule: the rule, including its check.
        graph: the graph; it is not changed.
        node: the root of the match or a node inside it.
        most: the maximum number of misses to keep.
    """
    roots = graph.nodes if node is None else _roots_around(rule, node)
    found = [rule.match(root) for root in roots if rule.may_start_at(root.op)]
    misses = sorted((miss for miss in found if isinstance(miss, Miss)), key=lambda miss: miss.progress, reverse=True)
    return Explanation(rule, tuple(match for match in found if isinstance(match, Match)), tuple(misses[:most]))


def _roots_around(rule: Rule, node: Node) -> Iterator[Node]:
    """Yield `node` and its users up to the depth of the pattern; none if the pattern has no such op."""
    if not any(op.accepts(node.op) for op in rule.pattern.inner_ops()):
        return
    seen, wave = {id(node)}, [node]
    for _ in range(rule.depth):
        yield from wave
        users = [user for node in wave for result in node.results for user in result.users]
        wave = [user for user in users if id(user) not in seen and not seen.add(id(user))]  # type: ignore[func-returns-value]

"""Explanations of why a rule, or a pass without rules, did not change a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph, Node
from graphpress.ir.rewriter import Rewrite, Rewriter
from graphpress.passes.framework import (
    Explanation,
    Hook,
    Pass,
    Pipeline,
    Report,
    RewritePass,
    Rule,
    Runner,
    Step,
    UnknownPassError,
    explain,
    lookup_pass,
    lookup_rule,
    registered_passes,
    registered_rules,
)
from graphpress.tools.passctl.as_data import location_data
from graphpress.tools.passctl.console import PassctlError


@frozen(eq=False)
class Subject:
    """The rules to explain, or a pass without rules.

    Attributes:
        name: the RULE argument.
        rules: the rules.
        pass_: the pass, if it has no rules.
        address: the first step of the pipeline that would apply it, or None.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    pass_: Pass | None = None
    address: str | None = None


def find_subject(name: str, pipeline: Pipeline | None) -> Subject:
    """Return the subject for ``rule``, ``pass/rule`` or ``pass``, with the options it has in `pipeline`, if any.

    Raises:
        UnknownPassError: if the name is unknown or ambiguous, with similar names.
        PassctlError: if the pass needs options and is not in the pipeline.
    """
    for step in pipeline or ():
        rules = step.pass_.all_rules() if isinstance(step.pass_, RewritePass) else ()
        if name == step.pass_.name:
            return Subject(name, rules, None if rules else step.pass_, step.address)
        named = [rule for rule in rules if name in (rule.name, f"{step.pass_.name}/{rule.name}")]
        if named:
            return Subject(name, (named[0],), address=step.address)
    if any(name == cls.name for cls in registered_passes()):
        try:
            instance = lookup_pass(name)()
        except TypeError as error:
            raise PassctlError(f"{name} needs options; pass a --pipeline with it: {error}") from error
        rules = instance.all_rules() if isinstance(instance, RewritePass) else ()
        return Subject(name, rules, None if rules else instance)
    try:
        return Subject(name, (lookup_rule(name),))
    except UnknownPassError as error:
        if "ambiguous" in str(error):
            raise
        known = [*registered_rules(), *(full.partition("/")[2] for full in registered_rules())]
        known += [cls.name for cls in registered_passes()]
        raise UnknownPassError(f"no rule or pass {name!r}{suggestion(name, known)}") from None


@frozen(eq=False)
class RuleExplanation:
    """The matches and nearest misses of a rule."""

    explanation: Explanation
    node: Node | None = None

    def __str__(self) -> str:
        found = self.explanation
        if self.node is not None and not found.matches and not found.misses:
            looked_at = dict.fromkeys(op.title for op in found.rule.pattern.inner_ops())
            return (
                f"{found.rule.name}: {self.node.name} ({self.node.op.name}) cannot take part in a match; "
                f"the pattern has {', '.join(looked_at)}"
            )
        return str(found)

    def data(self) -> dict[str, Any]:
        """Return the explanation as plain data."""
        return {
            "rule": self.explanation.rule.name,
            "matches": [_node_data(match.root) for match in self.explanation.matches],
            "misses": [
                {
                    "path": list(miss.path),
                    "expected": miss.expected,
                    "found": miss.found,
                    "progress": list(miss.progress),
                    **({} if miss.node is None else _node_data(miss.node)),
                }
                for miss in self.explanation.misses
            ],
        }


@frozen(eq=False)
class PassExplanation:
    """The rewrites and remarks of a pass without rules."""

    name: str
    rewrites: Sequence[Rewrite]
    reports: Sequence[Report]
    node: Node | None = None

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.rewrites)} rewrites, {len(self.reports)} remarks"]
        if self.node is not None:
            lines = [f"{self.name}, of {self.node.name} ({self.node.op.name}), {self.node.location}:"]
            lines += [] if self.rewrites or self.reports else ["no rewrite starts there, and there is no remark"]
        lines += [f"{rewrite}, {rewrite.location}" for rewrite in self.rewrites]
        return "\n".join([*lines, *map(str, self.reports)])

    def data(self) -> dict[str, Any]:
        """Return the explanation as plain data."""
        return {
            "pass": self.name,
            "rewrites": [
                {
                    "number": rewrite.number,
                    "title": rewrite.title,
                    "node": rewrite.node_name or None,
                    "op": rewrite.op_name or None,
                    "location": location_data(rewrite.location),
                }
                for rewrite in self.rewrites
            ],
            "remarks": [
                {
                    "reason": report.reason,
                    "node": report.node_name,
                    "op": report.op_name,
                    "location": location_data(report.location),
                }
                for report in self.reports
            ],
        }


def explain_subject(
    subject: Subject, graph: Graph, node_name: str | None, most: int
) -> list[RuleExplanation | PassExplanation]:
    """Explain each rule, those with the nearest matches first, or the pass.

    Args:
        subject: the rules or the pass.
        graph: the graph; it is not changed.
        node_name: the node to explain; None for all.
        most: the number of near misses to keep per rule.

    Raises:
        PassctlError: if there is no such node, with similar names.
    """
    node = None if node_name is None else _node(graph, node_name)
    if subject.pass_ is None:
        found = [explain(rule, graph, node, most) for rule in subject.rules]
        found.sort(key=_nearness, reverse=True)
        return [RuleExplanation(each, node) for each in found]
    log = _Log()
    Runner([log]).run(graph, Pipeline(subject.pass_, assume=subject.pass_.needs))
    rewrites = [each for each in log.rewrites if node is None or each.node_name == node.name]
    reports = [each for each in log.reports if node is None or each.node_name == node.name]
    return [PassExplanation(subject.name, rewrites, reports, node)]


@define(eq=False)
class _Log(Hook):
    rewrites: list[Rewrite] = field(factory=list)
    reports: list[Report] = field(factory=list)

    def rewriting(self, step: Step, rewriter: Rewriter) -> None:
        rewriter.rewrites.listener = self.rewrites.append

    def after(self, step: Step, graph: Graph, record: Any) -> None:
        self.reports += record.reports


def _nearness(found: Explanation) -> tuple[bool, tuple[int, int]]:
    return bool(found.matches), found.misses[0].progress if found.misses else (0, 0)


def _node(graph: Graph, name: str) -> Node:
    by_name = {node.name: node for node in graph.nodes}
    name = name.removeprefix("%")
    if name not in by_name:
        raise PassctlError(f"there is no node {name!r}{suggestion(name, by_name)}")
    return by_name[name]


def _node_data(node: Node) -> dict[str, Any]:
    return {"node": node.name, "op": node.op.name, "location": location_data(node.location)}

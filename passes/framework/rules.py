"""Rewrite rules: a pattern, a check, a rewrite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attrs import field, frozen

from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import OpDef
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.errors import PatternError
from graphpress.passes.framework.match import Match, Miss
from graphpress.passes.framework.matcher import match_pattern
from graphpress.passes.framework.patterns import Op, Pattern, Result, root_ops

Replacement = Value | Node | Sequence[Value]
Rewrite = Callable[[Match, Rewriter], Replacement | Miss | None]
Check = Callable[[Match], Miss | None]


@frozen(eq=False)
class Rule:
    """How one piece of graph becomes another.

    Attributes:
        name: in kebab case.
        pattern: what to look for; its root is an `Op`, or a `OneOf` such.
        rewrite: given the match, returns what stands for the results of the root from now on, and the driver puts it
            there and erases what is no longer read, constants too; or a `Miss`, without having edited anything; or
            None, having made its edits itself. A value computed *from* the root's result wraps the root: everyone else
            reads it instead.
        check: looks at a match without touching it and returns a `Miss` to decline.
    """

    name: str
    pattern: Pattern
    rewrite: Rewrite
    check: Check | None = None
    roots: tuple[Op, ...] = field(init=False)
    depth: int = field(init=False)

    @roots.default
    def _roots(self) -> tuple[Op, ...]:
        return root_ops(self.pattern)

    @depth.default
    def _depth(self) -> int:
        return self.pattern.depth()

    @property
    def summary(self) -> str:
        """The first line of the rewrite's docstring."""
        return (self.rewrite.__doc__ or "").strip().split("\n")[0]

    def may_start_at(self, op: OpDef) -> bool:
        """True when a node of `op` may be the root of a match."""
        return any(root.accepts(op) for root in self.roots)

    def match(self, node: Node) -> Match | Miss:
        """Try the pattern, then the check, with the root at `node`."""
        found = match_pattern(self.pattern, node)
        if isinstance(found, Match) and self.check is not None:
            verdict = self.check(found)
            if verdict is not None:
                if not isinstance(verdict, Miss):
                    raise PatternError(f"the check of rule {self.name!r} returned {verdict!r}, not a Miss or None")
                return verdict
        return found

    def __repr__(self) -> str:
        return f"<rule {self.name}>"


def rule(pattern: Pattern, *, name: str | None = None, check: Check | None = None) -> Callable[[Rewrite], Rule]:
    """Decorator: make a `Rule` of a rewrite function, called like it in kebab case if not otherwise.

    Raises:
        PatternError: when the pattern's root is no op.
    """

    def make(rewrite: Rewrite) -> Rule:
        return Rule(name or rewrite.__name__.strip("_").replace("_", "-"), pattern, rewrite, check)

    return make


class RuleIndex:
    """Rules by the op of their root, in the order given. An op is looked at once."""

    def __init__(self, rules: Sequence[Rule]):
        self.rules = tuple(rules)
        self.depth = max((rule.depth for rule in self.rules), default=1)
        self._by_op: dict[OpDef, tuple[tuple[Rule, tuple[Op, ...]], ...]] = {}

    def rules_at(self, op: OpDef) -> tuple[tuple[Rule, tuple[Op, ...]], ...]:
        """The rules whose root `op` fits, each with the ops it wants right under the root."""
        rules = self._by_op.get(op)
        if rules is None:
            rules = self._by_op[op] = tuple((r, _wanted(r, op)) for r in self.rules if r.may_start_at(op))
        return rules

    def candidates(self, node: Node) -> Iterator[Rule]:
        """The rules that may match with their root at `node`: the op fits, and for each op the root wants as an operand
        there is an operand made by such an op."""
        rules = self.rules_at(node.op)
        if rules:
            ops = [v.producer.op for _, _, v in node.operand_values() if isinstance(v.producer, Node)]
            for rule, wanted in rules:
                for pattern in wanted:
                    if not any(map(pattern.accepts, ops)):
                        break
                else:
                    yield rule


def _wanted(rule: Rule, op: OpDef) -> tuple[Op, ...]:
    """The ops every match with a root of `op` has right under the root."""
    roots = [root for root in rule.roots if root.accepts(op)]
    if len(roots) > 1:
        return ()
    return tuple(p.op if isinstance(p, Result) else p for p in roots[0].parts if isinstance(p, Op | Result))

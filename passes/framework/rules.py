"""Rewrite rules: a pattern, a check, a rewrite.

A rule says how one piece of graph becomes another. Passes that consist of rules are in `rewrite_pass`; `driver` applies
rules to a graph, and `explain` tells why one does not match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import field, frozen

from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import OpDef
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.errors import PatternError
from graphpress.passes.framework.match import Match, Miss
from graphpress.passes.framework.matcher import match_pattern
from graphpress.passes.framework.patterns import Op, Pattern, root_ops

Replacement = Value | Node | Sequence[Value]
Rewrite = Callable[[Match, Rewriter], Replacement | Miss | None]
Check = Callable[[Match], Miss | None]


@frozen(eq=False)
class Rule:
    """How one piece of graph becomes another; made by the decorator `rule`.

    Attributes:
        name: in kebab case.
        pattern: what to look for; its root is an `Op`, or a `OneOf` such.
        rewrite: given the match, returns what stands for the results of the root from now on, and the driver puts it
            there and erases what is no longer read, constants too; or a `Miss`, without having edited anything; or
            None, having made its edits itself. A new node that stands for the root gets the root's name, by which a
            config may mean it. A value computed *from* the root's result wraps the root: everyone else reads it
            instead.
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
        PatternError: when `pattern` is no pattern or its root is no op, or `check` or what is decorated is no function.
    """
    if not isinstance(pattern, Pattern):
        raise PatternError(f"a rule needs a pattern, as in @rule(Op('aten.relu', Any('x'))); this is {pattern!r}")
    root_ops(pattern)
    if check is not None and not callable(check):
        raise PatternError(f"`check` is a function that is given the match and returns a Miss or None, not {check!r}")

    def make(rewrite: Rewrite) -> Rule:
        if not callable(rewrite):
            raise PatternError(f"@rule decorates a function of the match and the rewriter, not {rewrite!r}")
        return Rule(name or rewrite.__name__.strip("_").replace("_", "-"), pattern, rewrite, check)

    return make


def not_a_rule(found: Any) -> str:
    """What is wrong with `found`, which stands where a rule belongs, and what would be accepted."""
    advice = "decorate it with @rule(PATTERN)" if callable(found) else "make one with the decorator @rule(PATTERN)"
    return f"{found!r} is no Rule: {advice}"

"""Rewrite rules: a pattern, a check, a rewrite.

A rule replaces one subgraph by another. Passes that consist of rules are in `rewrite_pass`; `driver` applies rules to a
graph, and `explain` reports why one does not match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import field, frozen

from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import OpDef
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.attempt import Misfits
from graphpress.passes.framework.compiled import CompiledPattern
from graphpress.passes.framework.errors import PatternError
from graphpress.passes.framework.match import Match, Miss
from graphpress.passes.framework.matcher import match_pattern
from graphpress.passes.framework.patterns import Op, Pattern, root_ops

Replacement = Value | Node | Sequence[Value]
Rewrite = Callable[[Match, Rewriter], Replacement | Miss | None]
Check = Callable[[Match], Miss | None]


@frozen(eq=False)
class Rule:
    """A replacement of one subgraph by another; made by the decorator `rule`.

    Attributes:
        name: in kebab case.
        pattern: the pattern to match; its root is an `Op`, or a `OneOf` of these.
        rewrite: a function of the match that returns the replacement of the root's results; the driver redirects their
            uses to it and erases nodes and constants that are no longer read. It may also return a `Miss`, without
            any edit, or None after editing the graph itself. A new node that replaces the root gets the root's name,
            by which a config may match it. A value computed *from* the root's result wraps the root: all other readers
            read it instead.
        check: a function of the match that edits nothing and returns a `Miss` to decline.
    """

    name: str
    pattern: Pattern
    rewrite: Rewrite
    check: Check | None = None
    roots: tuple[Op, ...] = field(init=False)
    compiled: CompiledPattern = field(init=False)
    depth: int = field(init=False)

    @roots.default
    def _roots(self) -> tuple[Op, ...]:
        return root_ops(self.pattern)

    @compiled.default
    def _compiled(self) -> CompiledPattern:
        return CompiledPattern(self.pattern)

    @depth.default
    def _depth(self) -> int:
        return self.pattern.depth()

    @property
    def summary(self) -> str:
        """The first line of the rewrite's docstring."""
        return (self.rewrite.__doc__ or "").strip().split("\n")[0]

    def may_start_at(self, op: OpDef) -> bool:
        """True if a node of `op` may be the root of a match."""
        return any(root.accepts(op) for root in self.roots)

    def match(self, node: Node) -> Match | Miss:
        """Match the pattern with the root at `node`, then run the check; a miss tells why there is no match."""
        found = match_pattern(self.pattern, node)
        return self._checked(found) if isinstance(found, Match) else found

    def find(self, node: Node, misfits: Misfits) -> Match | None:
        """The match at `node`, or None: what `match` finds, in less time.

        `misfits` is kept between calls, and cleared when the graph changes.
        """
        found = self.compiled.find(node, misfits)
        if found is None or self.check is None:
            return found
        checked = self._checked(found)
        return checked if isinstance(checked, Match) else None

    def _checked(self, found: Match) -> Match | Miss:
        verdict = None if self.check is None else self.check(found)
        if verdict is None:
            return found
        if not isinstance(verdict, Miss):
            raise PatternError(f"the check of rule {self.name!r} returned {verdict!r}, not a Miss or None")
        return verdict

    def __repr__(self) -> str:
        return f"<rule {self.name}>"


def rule(pattern: Pattern, *, name: str | None = None, check: Check | None = None) -> Callable[[Rewrite], Rule]:
    """Decorator that makes a `Rule` of a rewrite function; the default name is the function's in kebab case.

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
    """The error message for `found` in place of a rule, with what would be accepted."""
    advice = "decorate it with @rule(PATTERN)" if callable(found) else "make one with the decorator @rule(PATTERN)"
    return f"{found!r} is no Rule: {advice}"

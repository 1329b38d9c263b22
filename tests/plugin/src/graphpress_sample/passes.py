"""Importing this module registers a pass, a rule for a pass of graphpress, and a fusion pattern."""

from __future__ import annotations

from attrs import frozen

from graphpress.passes.analysis.fusion import FusionPattern, register_fusion_pattern
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.framework import RewritePass, add_rule, register_pass, rule
from graphpress.passes.framework.patterns import Any, Op


@rule(Op("aten.neg", Op("aten.neg", Any("x"))))
def drop_double_negation(match, rewriter):
    """Twice the opposite is the same."""
    return match["x"]


@rule(Op("aten.abs", Op("aten.abs", Any("x"), name="inner")))
def drop_double_abs(match, rewriter):
    """An absolute value is not negative."""
    return match.value("inner")


@register_pass
@frozen
class DropNegations(RewritePass):
    """Remove negations that undo each other."""

    rules = (drop_double_negation,)


add_rule(Canonicalize, drop_double_abs)
register_fusion_pattern(FusionPattern("sample-binary-abs", ("add sub mul", "abs")))

"""Multiplications and divisions by one, and activations expressed as products."""

from __future__ import annotations

from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import Match, Miss, rule
from graphpress.passes.framework.patterns import Any, Op


@rule(Op("aten.mul", Any("x"), 1).keeping_type())
def drop_multiplication_by_one(match: Match, rewriter: Rewriter) -> Value:
    """Remove a multiplication by the number one."""
    return match.value("x")


def _does_not_round(match: Match) -> Miss | None:
    mode = match.root.attributes.get("rounding_mode")
    return None if mode is None else match.miss("a division that does not round", f"rounding_mode={mode!r}")


@rule(Op("aten.div", Any("x"), 1).keeping_type(), check=_does_not_round)
def drop_division_by_one(match: Match, rewriter: Rewriter) -> Value:
    """Remove a division by the number one."""
    return match.value("x")


@rule(
    Op("aten.mul.Tensor", Any("x"), Op("aten.sigmoid", Any("x"), single_use=True)).where(
        lambda node: all(value.type == node.result.type for _, _, value in node.operand_values()),
        "factors of its own type",
    )
)
def fuse_silu(match: Match, rewriter: Rewriter) -> Node:
    """Replace ``x * sigmoid(x)`` by ``silu(x)`` (arXiv 1702.03118)."""
    return rewriter.insert_before(match.root, "aten.silu", {"self": match["x"]}, location=match.root.location)


RULES = (drop_multiplication_by_one, drop_division_by_one, fuse_silu)

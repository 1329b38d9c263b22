"""Removal of dropouts captured in evaluation mode, or their motion behind relus for training."""

from __future__ import annotations

from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import DROPOUTS
from graphpress.passes.framework import Match, Miss, rule
from graphpress.passes.framework.patterns import Any, Op
from graphpress.passes.rules.norms import BATCH_NORMS

_IDLE_DROPOUT = Op([f"aten.{name}" for name in sorted(DROPOUTS)], Any("x"), train=False)


@rule(_IDLE_DROPOUT)
def drop_dropout(match: Match, rewriter: Rewriter) -> Value:
    """Remove a dropout, which is the identity in evaluation."""
    return match.value("x")


def _is_read_by_a_norm(match: Match) -> Miss | None:
    result = match.root.result
    users = result.users
    if result.use_count == 1 and users and users[0].op.name in BATCH_NORMS:
        return None
    readers = [f"{user.name} ({user.op.name})" for user in users] + ["the graph's output"] * result.is_output
    return match.miss("to be read by a batch norm alone", ", ".join(readers) or "no reader")


@rule(_IDLE_DROPOUT, check=_is_read_by_a_norm)
def drop_dropout_before_norm(match: Match, rewriter: Rewriter) -> Value:
    """Remove a dropout before a batch norm, so that the norm is next to its layer."""
    return match.value("x")


@rule(
    Op(
        ("aten.relu", "aten.leaky_relu"),
        Op(("aten.dropout", "aten.feature_dropout"), Any("x"), train=False, name="dropout", single_use=True),
    )
)
def move_dropout_behind_relu(match: Match, rewriter: Rewriter) -> Node:
    """Move a dropout behind the relu that reads it; both multiply by non-negative numbers, so they commute.

    The relu is then next to its layer. Dropouts that shift values (alpha dropout) stay.
    """
    relu, dropout = match.root, match.node("dropout")
    rewriter.set_operand(relu, "self", match["x"])
    rewriter.erase(dropout)
    return rewriter.insert_after(
        relu,
        dropout.op,
        {"input": relu.result},
        dropout.attributes,
        name=dropout.name,
        location=dropout.location,
    )


REMOVING = (drop_dropout,)
"""For a model in evaluation."""

KEEPING = (drop_dropout_before_norm, move_dropout_behind_relu)
"""For a model that is to be trained."""

"""Dropouts as evaluation sees them: they do nothing there, but a model that is to be trained keeps them."""

from __future__ import annotations

from graphpress.ir.graph import Node, Value

DROPOUTS = frozenset({"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"})


def is_idle_dropout(node: Node) -> bool:
    """True for a dropout captured in evaluation mode, whose result is its operand."""
    return node.op.dialect == "aten" and node.op.family in DROPOUTS and not node.attribute("train")


def before_dropout(value: Value) -> Value:
    """The value that `value` is in evaluation: what went into the dropouts it comes from."""
    while value.node is not None and is_idle_dropout(value.node):
        operand = value.node.operand("input")
        assert operand is not None
        value = operand
    return value

"""Ops that move values without making new ones."""

from __future__ import annotations

from graphpress.ir.graph import Node
from graphpress.ir.ops import Trait


def only_moves_values(node: Node) -> bool:
    """True when the results lie within the range of the operands, so that one quantizer serves both."""
    return preserves_values(node) or node.op.has(Trait.RANGE_PRESERVING)


def preserves_values(node: Node) -> bool:
    """True when every element of the results is an element of the operands, or zero: a grid of codes stays a grid."""
    if not node.op.has(Trait.VALUE_PRESERVING):
        return False
    match node.op.family:
        case "constant_pad_nd":
            return not node.attribute("value")
        case "pad":
            return node.attribute("mode") != "constant" or not node.attribute("value")
        case "dropout" | "alpha_dropout" | "feature_dropout":
            return not node.attribute("train")
        case "max" | "amax":
            return True
    return True


def adds_zeros(node: Node) -> bool:
    """True for padding that brings in zeros beside the elements of its operand."""
    return node.op.family in ("constant_pad_nd", "pad")

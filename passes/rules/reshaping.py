"""Removal of redundant views, reshapes, slices, splits and copies, and one op for all views."""

from __future__ import annotations

from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import Match, Miss, rule
from graphpress.passes.framework.patterns import Any, Op

READS_STRIDES = frozenset(
    {"aten.as_strided", "aten.view.dtype", "aten.view_as", "aten.view_as_complex", "aten.view_as_real"}
)
"""Ops that see how a tensor lies in memory, which views and copies decide."""

_RESHAPES = ("aten.reshape", "aten.flatten", "aten.squeeze", "aten.expand", "aten.expand_as", "aten.view_as")
_ALIASES = ("aten.alias", "aten.detach", "aten.lift_fresh", "aten.lift_fresh_copy")
_COPIES = ("aten.to", "aten._to_copy", "aten.clone", "aten.type_as", "aten.contiguous")
_SPLITS = ("aten.split", "aten.chunk", "aten.split_with_sizes")


@rule(Op(("aten.view.default", "aten._unsafe_view"), Any("x"), ...))
def view_to_reshape(match: Match, rewriter: Rewriter) -> Node:
    """Replace a view by a reshape, which accepts all strides, so that ops before it may change them."""
    view = match.root
    operands = {"self": match["x"], "shape": view.operands.get("size")}
    attributes = {"shape": view.attributes["size"]} if "size" in view.attributes else {}
    return rewriter.insert_before(view, "aten.reshape", operands, attributes, types=[view.result.type])


@rule(Op((*_RESHAPES, *_ALIASES), Any("x"), ...).keeping_type())
def drop_reshape(match: Match, rewriter: Rewriter) -> Value:
    """Remove a reshape, an expansion or an alias that returns its operand unchanged."""
    return match.value("x")


@rule(Op("aten.slice", Any("x"), ..., step=1).where(lambda node: not node.attribute("start"), "start 0").keeping_type())
def drop_slice(match: Match, rewriter: Rewriter) -> Value:
    """Remove a slice of the whole axis."""
    return match.value("x")


def _strides_are_not_read(match: Match) -> Miss | None:
    graph = match.root.graph
    assert graph is not None
    if all(op.name not in READS_STRIDES for op in graph.ops):
        return None
    return match.miss(
        "a graph where no op reads strides",
        lambda: ", ".join(f"{n.name} ({n.op.name})" for n in graph.nodes_of(lambda op: op.name in READS_STRIDES)),
    )


@rule(Op(_COPIES, Any("x"), ...).keeping_type(), check=_strides_are_not_read)
def drop_copy(match: Match, rewriter: Rewriter) -> Value:
    """Remove a copy of the same type, also one to another memory format, which only moves bytes."""
    return match.value("x")


@rule(Op(_SPLITS, Any("x"), ...).keeping_type())
def drop_split(match: Match, rewriter: Rewriter) -> Value:
    """Remove a split into one part."""
    return match.value("x")


RULES = (view_to_reshape, drop_reshape, drop_slice, drop_copy, drop_split)

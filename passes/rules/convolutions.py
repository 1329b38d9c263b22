"""Canonical convolutions: one op per rank, with numeric padding."""

from __future__ import annotations

import typing

from graphpress.ir.graph import Node
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import Match, Miss, rule
from graphpress.passes.framework.patterns import Any, Op, Optional


def _has_its_own_op(match: Match) -> Miss | None:
    rank = match.value("x").tensor_type.rank
    return None if rank in (3, 4, 5) else match.miss("1, 2 or 3 spatial axes", f"an operand of {rank} axes", at="x")


@rule(Op("aten.convolution", Any("x"), Any("weight"), Optional(Any("bias")), ...), check=_has_its_own_op)
def convolution_by_rank(match: Match, rewriter: Rewriter) -> Node:
    """Replace the general convolution by the op for its rank."""
    general = match.root
    spatial = match.value("x").tensor_type.rank - 2
    operands = {"input": match["x"], "weight": match["weight"], "bias": match["bias"]}
    attributes = {name: general.attribute(name) for name in ("stride", "padding", "dilation", "groups")}
    op = f"aten.conv{spatial}d"
    if general.attribute("transposed"):
        op = f"aten.conv_transpose{spatial}d" + (".input" if spatial > 1 else "")
        attributes["output_padding"] = general.attribute("output_padding")
    return rewriter.insert_before(general, op, operands, attributes, types=[general.result.type])


def _pads_both_sides_alike(match: Match) -> Miss | None:
    totals = _total_padding(match.root)
    if all(total % 2 == 0 for total in totals):
        return None
    return match.miss("the same padding on both sides", f"{totals} elements in all along the axes")


@rule(
    Op([f"aten.conv{n}d.padding" for n in (1, 2, 3)], Any("x"), Any("weight"), Optional(Any("bias"))),
    check=_pads_both_sides_alike,
)
def padding_in_numbers(match: Match, rewriter: Rewriter) -> Node:
    """Replace ``padding="valid"`` and ``"same"`` by numbers if the padding is equal on both sides."""
    named = match.root
    attributes = {name: named.attribute(name) for name in ("stride", "dilation", "groups")}
    attributes["padding"] = [total // 2 for total in _total_padding(named)]
    op, types = named.op.name.removesuffix(".padding"), [named.result.type]
    return rewriter.insert_before(named, op, dict(named.operands), attributes, types=types)


def _total_padding(named: Node) -> list[int]:
    """The padding of both sides of each spatial axis together, in elements."""
    kernel = named.operands["weight"].tensor_type.shape[2:]
    if named.attribute("padding") != "same":
        return [0] * len(kernel)
    dilation = _per_axis(named.attribute("dilation"), len(kernel))
    return [step * (extent - 1) for step, extent in zip(dilation, kernel, strict=True)]


def _per_axis(value: typing.Any, count: int) -> list[int]:
    items = list(value) if isinstance(value, tuple) else [value]
    return items * count if len(items) == 1 else items


RULES = (convolution_by_rank, padding_in_numbers)

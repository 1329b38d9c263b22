"""Matrix products that are linear layers."""

from __future__ import annotations

from graphpress.ir.graph import Node
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import Match, Miss, rule
from graphpress.passes.framework.patterns import Any, Op

_TURNED = Op(("aten.t", "aten.transpose.int", "aten.permute"), Any("weight", rank=2), name="turned")


def _turns_axes(match: Match) -> Miss | None:
    turned = match.node("turned")
    axes = turned.attributes.get("dims", (turned.attributes.get("dim0", 1), turned.attributes.get("dim1", 0)))
    if axes[0] % 2 != axes[1] % 2:
        is_turned = turned.op.name != "aten.permute" or axes[0] % 2 == 1
        if is_turned:
            return None
    return match.miss("the two axes to be exchanged", f"axes {tuple(axes)}", at="turned")


@rule(Op("aten.addmm", Any("bias", rank=1), Any("x"), _TURNED, beta=1, alpha=1), check=_turns_axes)
def addmm_to_linear(match: Match, rewriter: Rewriter) -> Node:
    """Replace ``addmm(bias, x, weight.t())`` by a linear layer."""
    addmm = match.root
    operands = {"input": match["x"], "weight": match["weight"], "bias": match["bias"]}
    types, location = [addmm.result.type], addmm.location
    return rewriter.insert_before(addmm, "aten.linear", operands, types=types, location=location)


RULES = (addmm_to_linear,)

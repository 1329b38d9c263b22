"""Canonical batch norms."""

from __future__ import annotations

from graphpress.ir.graph import Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import Match, Miss, rule
from graphpress.passes.framework.patterns import Any, Op

_NATIVE = (
    "aten._native_batch_norm_legit_no_training",
    "aten.native_batch_norm",
    "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm",
    "aten._batch_norm_no_update",
)
BATCH_NORMS = frozenset({"aten.batch_norm", *_NATIVE})
"""Every op that is a batch norm."""

_PARAMETERS = ("input", "weight", "bias", "running_mean", "running_var")


def _only_normalizes(match: Match) -> Miss | None:
    norm = match.root
    if norm.attributes.get("training", False):
        return match.miss("a norm in evaluation", "training=True")
    for result in norm.results[1:]:
        if result.use_count:
            return match.miss("statistics that nothing reads", f"{result.name}, which is read")
    return None


@rule(Op(_NATIVE, Any("x"), ...), check=_only_normalizes)
def native_norm_to_batch_norm(match: Match, rewriter: Rewriter) -> list[Value]:
    """Replace a native batch norm with unread statistics by ``batch_norm``."""
    norm = match.root
    operands = {name: norm.operands[name] for name in _PARAMETERS if name in norm.operands}
    given = norm.attributes
    attributes = {
        "training": False,
        "momentum": given.get("momentum", given.get("exponential_average_factor", 0.1)),
        "eps": given.get("eps", given.get("epsilon", 1e-5)),
        "cudnn_enabled": False,
    }
    made = rewriter.insert_before(norm, "aten.batch_norm", operands, attributes, types=[norm.results[0].type])
    return [made.result, *norm.results[1:]]


RULES = (native_norm_to_batch_norm,)

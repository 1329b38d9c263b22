"""Value-preserving ops, whose operands and results share one quantizer.

torch ops are classified by their traits; other ops are registered.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from graphpress.ir.aten_traits import families_with
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.graph import Node
from graphpress.ir.ops import Trait


class ValuePreservingError(GraphpressError, ValueError):
    """An op that cannot be registered as value-preserving, or is not registered."""


@frozen
class ValuePreservingOp:
    """A registered op; see `register_value_preserving_op` for `exact` and `when`."""

    op_type: str
    exact: bool = True
    when: Callable[[Node], bool] | None = None


_REGISTERED: dict[str, ValuePreservingOp] = {}


def register_value_preserving_op(
    op_type: str, *, exact: bool = True, when: Callable[[Node], bool] | None = None
) -> ValuePreservingOp:
    """Register an op whose results share the quantizer of its operands.

    Args:
        op_type: as in a config: ``my_shuffle`` for ``torch.ops.mylib.my_shuffle``.
        exact: True if every element of a result is an element of an operand or zero; False if it only lies within their
            range.
        when: returns True for nodes that preserve values; by default all do.

    Raises:
        ValuePreservingError: if the op is already known as value-preserving.
    """
    known = families_with(Trait.VALUE_PRESERVING) | families_with(Trait.RANGE_PRESERVING)
    if op_type in known or op_type in _REGISTERED:
        raise ValuePreservingError(f"the op type {op_type!r} is already value-preserving")
    _REGISTERED[op_type] = ValuePreservingOp(op_type, exact, when)
    return _REGISTERED[op_type]


def unregister_value_preserving_op(op_type: str) -> None:
    """Undo `register_value_preserving_op`.

    Raises:
        ValuePreservingError: if the op is not registered.
    """
    if op_type not in _REGISTERED:
        raise ValuePreservingError(
            f"no value-preserving op {op_type!r} was registered{suggestion(op_type, _REGISTERED)}"
        )
    del _REGISTERED[op_type]


def _registered(node: Node) -> ValuePreservingOp | None:
    found = _REGISTERED.get(node.op.family)
    return found if found is not None and (found.when is None or found.when(node)) else None


def only_moves_values(node: Node) -> bool:
    """Return True if the results lie within the range of the operands, so that both can share a quantizer."""
    return preserves_values(node) or node.op.has(Trait.RANGE_PRESERVING) or _registered(node) is not None


def preserves_values(node: Node) -> bool:
    """Return True if every result element is an operand element or zero, so that a grid of codes is preserved."""
    if not node.op.has(Trait.VALUE_PRESERVING):
        registered = _registered(node)
        return registered is not None and registered.exact
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
    """Return True for padding with zeros."""
    return node.op.family in ("constant_pad_nd", "pad")

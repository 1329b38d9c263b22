"""Mistakes in patterns that would otherwise just never match: ops and parameters that do not exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

import torch

from graphpress.ir.errors import suggestion
from graphpress.ir.ops import OpError, lookup_op, registered_ops
from graphpress.passes.framework.errors import PatternError


def check_op_name(name: str) -> None:
    """Raise when `name` has no dialect, or is an aten op that torch does not have.

    Ops of other dialects may be registered later than the pattern is written.
    """
    dialect, _, rest = name.partition(".")
    if not rest:
        raise PatternError(f"{name!r} is no op name: it needs a dialect, such as 'aten.{name}'")
    if dialect != "aten":
        return
    short, _, overload = rest.partition(".")
    packet = getattr(torch.ops.aten, short, None)
    if packet is None:
        raise PatternError(f"torch has no op {name!r}{suggestion(name, [op.name for op in registered_ops()])}")
    if overload and overload not in packet.overloads():
        known = ", ".join(packet.overloads())
        raise PatternError(f"torch has no overload {name!r}: 'aten.{short}' has {known}")


def check_parameters(name: str, positional: int, named: Mapping[str, object] | Iterable[str]) -> None:
    """Raise when no overload of `name` has so many parameters, or one of those names."""
    known = _parameters(name)
    if known is None:
        return
    most, names = known
    if positional > most:
        raise PatternError(f"{name} takes at most {most} operands and attributes, the pattern gives {positional}")
    for wanted in named:
        if wanted not in names:
            raise PatternError(
                f"{name} has no parameter {wanted!r}{suggestion(wanted, names)}; it has {', '.join(names)}"
            )


@cache
def _parameters(name: str) -> tuple[int, tuple[str, ...]] | None:
    """The largest number of parameters and all their names over the overloads; None for an op nobody knows yet."""
    dialect, short, overload = (*name.split(".", 2), "")[:3]
    if dialect == "aten":
        packet = getattr(torch.ops.aten, short)
        overloads = [overload] if overload else packet.overloads()
        schemas = [[a.name for a in getattr(packet, o)._schema.arguments if not a.is_out] for o in overloads]
        return max(map(len, schemas)), tuple(dict.fromkeys(name for schema in schemas for name in schema))
    try:
        op = lookup_op(name)
    except OpError:
        return None
    return None if op.variadic else (len(op.parameters), tuple(op.by_name))

"""What a value or constant lacks to be matched, and how subjects are shown in a `Miss`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphpress.ir.graph import Node, Output, Value
from graphpress.ir.types import TensorType, Type
from graphpress.passes.framework import patterns as p


class Absent:
    """The operand that is not there."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = Absent()


def type_complaint(pattern: p.Any, type: Type) -> str | None:
    """What `pattern` asks of a type that `type` is not; None when it fits."""
    if not pattern.dtype and pattern.rank is None and pattern.shape is None:
        return None
    if not isinstance(type, TensorType):
        return "a tensor"
    if pattern.dtype and type.dtype not in pattern.dtype:
        return f"elements of type {' or '.join(dtype.value for dtype in pattern.dtype)}"
    if pattern.rank is not None and type.rank != pattern.rank:
        return f"{pattern.rank} axes"
    if pattern.shape is not None:
        fits = len(pattern.shape) == type.rank and all(
            wanted is None or wanted == extent for wanted, extent in zip(pattern.shape, type.shape, strict=True)
        )
        if not fits:
            return f"shape [{', '.join('any' if extent is None else str(extent) for extent in pattern.shape)}]"
    return None


def constant_complaint(pattern: p.Constant, subject: Any) -> str | None:
    """What `pattern` asks of a constant that `subject` is not; None when it fits."""
    constant = subject.constant if isinstance(subject, Value) else None
    if constant is None:
        return "a constant"
    if not constant.has_data:
        return "a constant whose data is known"
    if pattern.value is not None:
        tensor = constant.tensor
        if not tensor.numel() or not bool((tensor == pattern.value).all()):
            return f"a constant filled with {pattern.value!r}"
    return None


def show(subject: Any) -> str:
    """A value, node, list or Python value, for people."""
    if isinstance(subject, tuple):
        return f"[{', '.join(map(show, subject))}]"
    if isinstance(subject, Node):
        return f"{subject.name} ({subject.op.name})"
    if not isinstance(subject, Value):
        return repr(subject)
    if subject.node is not None:
        return f"{subject.name}: {subject.type} = {subject.node.op.name}"
    kind = "constant" if subject.constant is not None else "input"
    return f"{kind} {subject.name}: {subject.type}"


def readers(value: Value, outside: Sequence[Node | Output]) -> str:
    """Who else reads `value`."""
    names = dict.fromkeys("the graph's output" if isinstance(user, Output) else user.name for user in outside)
    return f"{value.name} read by {', '.join(names)} too"

"""A bound on what coremltools computes while it reads a program.

It computes the value of each operation whose operands are constants, so that a program of a few bytes, which fills or
tiles a tensor, would take gigabytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from graphpress.backends.coreml.dependency import require

_LEAST = 2**22
_left: ContextVar[list[int] | None] = ContextVar("left", default=None)


@contextmanager
def bounded_inference(size: int) -> Iterator[None]:
    """Compute no more elements than a program of `size` bytes may stand for; later values stay unknown.

    Values of constants are read in any case.
    """
    _install()
    token = _left.set([_LEAST + 8 * size])
    try:
        yield
    finally:
        _left.reset(token)


def _install() -> None:
    operation = require("coremltools.converters.mil.mil.operation").Operation
    infer = operation._auto_val
    if hasattr(infer, "is_bounded"):
        return

    def bounded(self: Any, output_types: Any) -> Any:
        left = _left.get()
        if left is not None and self.op_type != "const":
            left[0] -= sum(map(_elements, output_types))
            if left[0] < 0:
                return tuple(None for _ in output_types)
        return infer(self, output_types)

    bounded.is_bounded = True  # type: ignore[attr-defined]
    operation._auto_val = bounded


def _elements(type: Any) -> int:
    """Return the number of elements of a MIL type; 1 for other types, and where dims are symbols."""
    shape = type.get_shape() if hasattr(type, "get_shape") else ()
    return math.prod(dim for dim in shape if isinstance(dim, int))

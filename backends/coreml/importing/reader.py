"""What the translations of single ops work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from attrs import define, field

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Value
from graphpress.ir.ops import OpDef, Trait, lookup_op, register_op
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType

Translation = Callable[["MilReader", Any], Value | tuple[Value, ...]]

TRANSLATIONS: dict[str, Translation] = {}
"""By the name of the MIL op."""


def translates(*names: str) -> Callable[[Translation], Translation]:
    """Decorator: the function translates the MIL ops of these names."""

    def register(function: Translation) -> Translation:
        TRANSLATIONS.update(dict.fromkeys(names, function))
        return function

    return register


@define(eq=False)
class MilReader:
    """Reads the operands of MIL ops, and makes nodes."""

    graph: Graph
    rewriter: Rewriter = field(init=False)
    values: dict[int, Value] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.rewriter = Rewriter(self.graph)

    def value(self, var: Any) -> Value:
        """The IR's value of a MIL value; a constant is made when it is first read."""
        key = id(var)
        if key not in self.values:
            self.values[key] = self.constant(var.name, np.asarray(var.val), self.dtype(var))
        return self.values[key]

    def constant(self, name: str, array: Any, dtype: DType) -> Value:
        """A constant that holds `array` as `dtype`."""
        tensor = torch.from_numpy(np.array(array, dtype=_plain(array))).to(dtype.torch_dtype)
        return self.graph.add_constant(name, tensor, "buffer", type=TensorType(dtype, tensor.shape)).value

    def dtype(self, var: Any) -> DType:
        """The element type of a MIL value."""
        from coremltools.converters.mil.mil import types

        return DType.of(_NAMES.get(name := types.builtin_to_string(var.dtype), name))

    def emit(self, op: str, attributes: Mapping[str, Any] | None = None, /, **operands: Any) -> Value:
        """A node with one result. Operands that are no values become attributes."""
        return self.emit_all(op, attributes, **operands)[0]

    def emit_all(self, op: str, attributes: Mapping[str, Any] | None = None, /, **operands: Any) -> tuple[Value, ...]:
        """A node with all its results."""
        plain = {k: v for k, v in operands.items() if not _holds_value(v)} | dict(attributes or {})
        read = {k: v for k, v in operands.items() if _holds_value(v)}
        return self.rewriter.insert_before(None, op, read, {k: v for k, v in plain.items() if v is not None}).results

    def opaque(self, op: Any) -> tuple[Value, ...]:
        """A node for a MIL op without translation: it can be looked at, but not run."""
        operands = {
            name: tuple(self.value(v) for v in operand) if isinstance(operand, list | tuple) else self.value(operand)
            for name, operand in op.inputs.items()
            if operand is not None
        }
        types = [self.type(out) for out in op.outputs]
        node = self.rewriter.insert_before(None, _opaque_op(op.op_type, len(types)), operands, types=types)
        return node.results

    def type(self, var: Any) -> TensorType:
        """The type of a MIL value; extents that are not known are 1."""
        return TensorType(self.dtype(var), [int(n) if isinstance(n, int | np.integer) else 1 for n in var.shape])


def number(var: Any, default: Any = None) -> Any:
    """What a constant operand holds, as plain Python: a number, a list, a string."""
    if var is None:
        return default
    held = var.val if hasattr(var, "val") else var
    return held.tolist() if isinstance(held, np.ndarray | np.generic) else held


_NAMES = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "string": "int8"}


def _plain(array: Any) -> Any:
    dtype = np.asarray(array).dtype
    return np.dtype(dtype.str) if dtype.kind in "iufb" else np.int8


def _holds_value(operand: Any) -> bool:
    return isinstance(operand, Value) or (isinstance(operand, list | tuple) and any(map(_holds_value, operand)))


def _opaque_op(name: str, results: int) -> OpDef:
    full = f"mil.{name}"
    try:
        return lookup_op(full)
    except LookupError:
        return register_op(
            OpDef(full, variadic=True, traits={Trait.OPAQUE}, result_count=results, returns_sequence=results != 1)
        )

"""The reader used by translations of MIL ops."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from attrs import define, field

from graphpress.backends.coreml.dependency import require
from graphpress.backends.importing.reader import Reader, Translations, opaque_op
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value
from graphpress.ir.types import TensorType

Translation = Callable[["MilReader", Any], Value | tuple[Value, ...]]

translates: Translations[Translation] = Translations()
"""Translations by MIL op name."""


@define(eq=False)
class MilReader(Reader):
    """Reads operands of MIL ops and adds nodes."""

    values: dict[int, Value] = field(factory=dict, init=False)
    constants: dict[str, Value] = field(factory=dict, init=False)
    states: dict[int, Value] = field(factory=dict, init=False)

    def value(self, var: Any) -> Value:
        """Return the IR value of a MIL value; constants are added when first read."""
        key = id(var)
        if key not in self.values:
            made = self.constant(var.name, np.asarray(var.val), self.dtype(var))
            self.values[key] = self.constants[var.name] = made
        return self.values[key]

    def enter(self, name: str, var: Any) -> None:
        """Add an input of a function or of a body."""
        try:
            type = self.type(var)
        except (AttributeError, TypeError, ValueError):  # a state
            type = TensorType(DType.FLOAT32, ())
        made = self.graph.add_input(name, type).value
        assert made is not None
        self.values[id(var)] = made

    def constant(self, name: str, array: Any, dtype: DType) -> Value:
        """Add a constant that holds `array` as `dtype`."""
        tensor = torch.from_numpy(np.array(array, dtype=_plain(array))).to(dtype.torch_dtype)
        return self.graph.add_constant(name, tensor, "buffer", type=TensorType(dtype, tensor.shape)).value

    def dtype(self, var: Any) -> DType:
        """The element type of a MIL value."""
        return DType.of(_NAMES.get(name := _mil_types().builtin_to_string(var.dtype), name))

    def opaque(self, op: Any) -> tuple[Value, ...]:
        """Add a node for a MIL op without translation, which can be inspected but not executed."""
        operands = {
            name: tuple(self.value(v) for v in operand) if isinstance(operand, list | tuple) else self.value(operand)
            for name, operand in op.inputs.items()
            if operand is not None and not isinstance(getattr(operand, "val", None), str)  # strings are not operands
        }
        types = [self.type(out) for out in op.outputs]
        kind = opaque_op(f"mil.{op.op_type}", len(types))
        return self.rewriter.insert_before(None, kind, operands, types=types).results

    def unread(self, op: Any) -> tuple[Value, ...]:
        """Add a node for a MIL op whose operands cannot be read."""
        types = [TensorType(DType.FLOAT32, ()) for _ in op.outputs]
        return self.rewriter.insert_before(None, opaque_op(f"mil.{op.op_type}", len(types)), {}, types=types).results

    def type(self, var: Any) -> TensorType:
        """Return the type of a MIL value; unknown dims are 1."""
        return TensorType(self.dtype(var), [int(n) if isinstance(n, int | np.integer) else 1 for n in var.shape])


def is_state(var: Any) -> bool:
    """Return True for an input that persists between runs."""
    return bool(_mil_types().is_state(var.sym_type))


def number(var: Any, default: Any = None) -> Any:
    """Return the data of a constant operand as Python values: a number, a list, a string."""
    if var is None:
        return default
    held = var.val if hasattr(var, "val") else var
    return held.tolist() if isinstance(held, np.ndarray | np.generic) else held


_NAMES = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "string": "int8"}


def _plain(array: Any) -> Any:
    dtype = np.asarray(array).dtype
    return np.dtype(dtype.str) if dtype.kind in "iufb" else np.int8


@cache
def _mil_types() -> Any:
    """coremltools' module of MIL types."""
    return require("coremltools.converters.mil.mil.types")

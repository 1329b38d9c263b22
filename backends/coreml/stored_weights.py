"""Compressed constants of the IR as ops of a Core ML program."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphpress.backends.coreml.translations import TRANSLATIONS, Builder, Constant, Waiting, dtype_number
from graphpress.ir.graph import Node, Value

_NAMES = {"blockwise_shift_scale": "constexpr_blockwise_shift_scale"}
_OPERANDS = {"values": "nonzero_data"}


def stored_weight(value: Value, name: str) -> Any:
    """What stands for `value`, made at the place where coremltools builds now.

    Args:
        value: `quant` ops over constants, which the target can store, or a constant.
        name: of the op.
    """
    made = _Making(Waiting()).make(value, name)
    return Builder(Waiting(), name).plain(made.val) if isinstance(made, Constant) else made


class _Making:
    """Makes the ops of one weight, innermost first."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting

    def make(self, value: Value, name: str) -> Any:
        """The op for a value, a table that waits for its scale, or a constant."""
        if value.node is None:
            assert value.constant is not None
            return Constant(_array(value))
        node = value.node
        operands = {
            _OPERANDS.get(key, key): self.make(operand, f"{name}_{key}") for key, _, operand in node.operand_values()
        }
        kind = _NAMES.get(node.op.short_name, node.op.short_name)
        build = Builder(self._waiting, name)
        made = TRANSLATIONS[kind](build, **_arguments(node, operands))
        return self._waiting.tables[name] if made is None else build.cast(made, value.tensor_type.dtype.long_name)


def _arguments(node: Node, operands: dict[str, Any]) -> dict[str, Any]:
    """As the op of `torch.ops.coreai` takes them."""
    if node.op.short_name == "blockwise_shift_scale":
        dtypes = {"input_dtype": dtype_number(node.attribute("dtype").long_name), "output_dtype": None}
        return dict.fromkeys(("zero_point", "minval")) | operands | dtypes
    return operands | ({"axis": node.attribute("axis")} if node.op.short_name == "lut_to_dense" else {})


def _array(value: Value) -> np.ndarray[Any, Any]:
    assert value.constant is not None
    return value.constant.tensor.detach().numpy()

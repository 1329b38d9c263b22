"""What the translations of single ops work with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import define, field

from graphpress.backends.coreai import ops
from graphpress.backends.coreai.asset import element_type
from graphpress.backends.coreai.importing.constants import Held
from graphpress.backends.importing.reader import Reader, Translations, opaque_op
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType

Read = Value | Held
Translation = Callable[["AssetReader", Any], Read | tuple[Read, ...] | None]

translates: Translations[Translation] = Translations()
"""By the name of the op, as `short_name` gives it; None declines, and the op stays opaque."""


def short_name(op: Any) -> str:
    """`add` for ``coreai.decomposable.broadcasting_add`` and for ``coreai.add``: both broadcast."""
    return str(op.name).removeprefix("coreai.").removeprefix("decomposable.").removeprefix("broadcasting_")


@define(eq=False)
class AssetReader(Reader):
    """Reads the operands of ops, and makes nodes. A constant enters the graph when a node reads it."""

    blobs: dict[str, bytes] = field(factory=dict, kw_only=True)
    known: dict[Any, Read] = field(factory=dict, init=False)
    states: dict[Any, Value] = field(factory=dict, init=False)
    _entered: dict[Held, Value] = field(factory=dict, init=False)

    def value(self, operand: Any) -> Value:
        """The IR's value of an operand."""
        found = self.known[operand]
        if not isinstance(found, Held):
            return found
        if found not in self._entered:
            self._entered[found] = self.constant(found.tensor, found.dtype)
        return self._entered[found]

    def constant(self, tensor: torch.Tensor, dtype: DType) -> Value:
        """A constant of the graph."""
        name = f"constant_{len(self.graph.constants)}"
        return self.graph.add_constant(name, tensor, "buffer", type=TensorType(dtype, tensor.shape)).value

    def origins(self) -> Iterator[tuple[Value, Any]]:
        """The constants of the graph, each with the value of the program that it is."""
        for operand, found in self.known.items():
            if isinstance(found, Held) and found in self._entered:
                yield self._entered[found], operand

    def tensor(self, operand: Any) -> torch.Tensor | None:
        """What an operand holds where that depends on constants alone, else None."""
        found = self.known[operand]
        return found.tensor if isinstance(found, Held) else _computed(found)

    def number(self, operand: Any) -> Any:
        """What a constant operand holds, as plain Python; None where it is no constant."""
        tensor = self.tensor(operand)
        return None if tensor is None else tensor.tolist()

    def opaque(self, op: Any) -> tuple[Value, ...]:
        """A node for an op without translation: it can be looked at, but not run."""
        operands = tuple(self.value(operand) for operand in op.operands if operand in self.known)
        types = [tensor_type(result.type) for result in op.results if _is_tensor(result.type)]
        kind = opaque_op(f"aimodel.{short_name(op)}", len(types))
        return self.rewriter.insert_before(None, kind, {"operands": operands}, types=types).results


def tensor_type(type: Any) -> TensorType:
    """The IR's type of an MLIR tensor; extents that are free are 1."""
    ranked = ops.require("coreai._compiler.ir").RankedTensorType(type)
    shape = [1 if ranked.is_dynamic_dim(at) else size for at, size in enumerate(ranked.shape)]
    return TensorType(element_type(str(ranked.element_type)), shape)


def word(op: Any, attribute: str, default: str = "") -> str:
    """The word in an attribute such as ``#coreai.padding_mode<constant>``."""
    if attribute not in op.attributes:
        return default
    found = re.search(r"<\s*(\w+)\s*>", str(op.attributes[attribute]))
    return found[1] if found else default


def _computed(value: Value) -> torch.Tensor | None:
    if value.constant is not None:
        return value.constant.tensor
    if value.node is None or value.node.op.has(Trait.OPAQUE):
        return None
    read = {id(each): _computed(each) for _, _, each in value.node.operand_values()}
    if any(tensor is None for tensor in read.values()):
        return None
    found = evaluate_node(value.node, lambda each: read[id(each)])[value.index]
    return found if isinstance(found, torch.Tensor) else None


def _is_tensor(type: Any) -> bool:
    return str(type).startswith("tensor<")

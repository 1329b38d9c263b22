"""Small graphs for tests, in a few words each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.location import Location, ModuleScope, Origin
from graphpress.ir.ops import lookup_op
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType


class GraphBuilder:
    """Appends to `graph`. Every node gets the module path ``block.<node name>`` and a source line."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.rewriter = Rewriter(self.graph)

    def input(self, name: str = "x", shape: Sequence[int] = (2, 4), dtype: DType = DType.FLOAT32) -> Value:
        value = self.graph.add_input(name, TensorType(dtype, shape)).value
        assert value is not None
        return value

    def constant(self, name: str, tensor: torch.Tensor, kind: str = "parameter") -> Value:
        return self.graph.add_constant(name, tensor, kind).value

    def node(self, op: str, *operands: Any, name: str | None = None, types: Any = None, **attributes: Any) -> Node:
        """`operands` in the order of the schema; numbers among them become attributes."""
        parameters = [parameter.name for parameter in lookup_op(op).parameters]
        values, numbers = {}, dict(attributes)
        for parameter, operand in zip(parameters, operands, strict=False):
            (values if isinstance(operand, Value | list) else numbers)[parameter] = operand
        node = self.rewriter.insert_before(None, op, values, numbers, name=name, types=types)
        scopes = (ModuleScope("", "Model"), ModuleScope(f"block.{node.name}", f"lib.{node.op.short_name.title()}"))
        node.location = Location((Origin(scopes, "model.py", 10 + len(self.graph.nodes)),))
        return node

    def op(self, op: str, *operands: Any, name: str | None = None, **attributes: Any) -> Value:
        """As `node`, for ops with one result."""
        return self.node(op, *operands, name=name, **attributes).result

    def output(self, *values: Value) -> Graph:
        for value in values:
            self.graph.add_output(value)
        return self.graph


def relu_chain(length: int) -> Graph:
    """`length` times relu."""
    builder = GraphBuilder()
    value = builder.input()
    for _ in range(length):
        value = builder.op("aten.relu", value)
    return builder.output(value)


def op_names(graph: Graph) -> list[str]:
    """The ops in order, without dialect and overload."""
    return [node.op.short_name for node in graph.nodes]

"""int32 and int64 to int16, for the arithmetic of whole tensors.

A sum or product of two integer tensors is cast, and what adds up the elements of such a result, unless something made
from it is an index or a size. What is known before the model runs is left to constant folding.
"""

from __future__ import annotations

from attrs import define, field

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import Trait
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import ScalarType, TensorType
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.casting.casts import Casts
from graphpress.passes.framework.context import PassContext

_BINARY = frozenset(("add", "sub", "mul"))
_REDUCING = frozenset(("sum",))
_INDEX_OPERANDS = frozenset(("index", "indices"))
_WIDE = (DType.INT32, DType.INT64)


@define(eq=False)
class IntegerCaster:
    """Casts the designated ops of a graph; two in a row exchange int16 directly."""

    graph: Graph
    rewriter: Rewriter
    context: PassContext
    _casts: Casts = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._casts = Casts(self.rewriter)

    def run(self) -> None:
        """Choose, cast, and give inputs that are read as int16 only that type."""
        chosen = self._chosen()
        for node in chosen:
            self.context.node = node
            self._cast(node)
        self.context.node = None
        self.context.count("casts", self._casts.finish())
        for graph_input in self.graph.inputs:
            if graph_input.value is not None:
                self._cast_input(graph_input.value)
        self.context.count("integer nodes", len(chosen))

    def _chosen(self) -> list[Node]:
        """Ops worth a cast of what they read, and reductions that need none."""
        constant = constant_values(self.graph)
        positional = self._positional()
        chosen: dict[int, Node] = {}
        for node in self.graph.nodes:
            read = [value for _, _, value in node.operand_values()]
            if not all(map(_is_integer, [*read, *node.results])) or len(node.results) != 1:
                continue
            if id(node.result) in positional or any(id(value) in constant for value in read):
                continue
            is_reduction = node.op.family in _REDUCING and len(read) == 1 and id(read[0]) in chosen
            if is_reduction or (node.op.family in _BINARY and len(read) == 2):
                chosen[id(node.result)] = node
        return list(chosen.values())

    def _positional(self) -> set[int]:
        """Values that are an index or a size, or that one is computed from."""
        found: set[int] = set()
        for node in reversed(self.graph.nodes):
            counts = node.op.has(Trait.SYMBOLIC) or any(isinstance(r.type, ScalarType) for r in node.results)
            made = any(id(result) in found for result in node.results)
            for name, _, value in node.operand_values():
                if name in _INDEX_OPERANDS or counts or (made and _is_integer(value)):
                    found.add(id(value))
        return found

    def _cast(self, node: Node) -> None:
        before = node.result.tensor_type
        self._casts.cast_operands(node, {id(value): DType.INT16 for _, _, value in node.operand_values()})
        if node.op.family in _REDUCING:
            self.rewriter.set_attribute(node, "dtype", DType.INT16)
        uses = list(node.result.uses)
        self.rewriter.retype(node.result, before.with_dtype(DType.INT16))
        back = self._casts.cast(node.result, before.dtype)
        self.rewriter.replace_uses(node.result, back, where=lambda use: use in uses)

    def _cast_input(self, value: Value) -> None:
        """Take int16 from the user where the graph only ever casts to it."""
        readers = value.users
        if _is_integer(value) and readers and not value.is_output and all(map(_casts_to_int16, readers)):
            self.rewriter.retype(value, value.tensor_type.with_dtype(DType.INT16))
            for reader in readers:
                self.rewriter.replace(reader, value)
            self.context.count("inputs")


def _is_integer(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype in _WIDE


def _casts_to_int16(node: Node) -> bool:
    return node.op.name == "aten._to_copy" and node.attributes == {"dtype": DType.INT16}

"""Values that a quantizer only harms: arguments of sine and cosine, scores of choices, and numbers made from integers.

An error of half a step in an angle of hundreds of radians is a different angle, and a position or a time step that is
rounded to one of 256 codes is another position. Scores that become equal codes are chosen from by chance, and not alike
by torch and a runtime. No backend gains from their codes either: what reads them is computed in floats. They are found
by dataflow:

- *angles*: values of which every use ends in sine, cosine or a cast to integers, through elementwise ops, ops that move
  values, and products without a parameter. A layer on the way ends the search: its own input is an activation.
- *scores*: values of which every use ends in a choice, such as the experts of a mixture, found likewise, and through
  softmax, which keeps the order.
- *numbers*: values computed from integers and constants only, through elementwise ops and ops that move values, unless
  a layer or a product computes on them. Integer images of which a convolution reads the normalized pixels are
  therefore activations. Truth values are no integers: two levels are exact in any codes.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.boundaries import is_float
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.analysis.fusion import LAYERS, PRODUCTS
from graphpress.passes.analysis.value_preserving import only_moves_values

_PERIODIC = frozenset({"sin", "cos"})
_CHOOSING = frozenset({"topk", "sort", "argsort", "argmax", "argmin"})
_ORDERED = frozenset({"softmax", "log_softmax", "_softmax", "_log_softmax"})
_COUNTING = frozenset({"arange", "linspace"})
_LOOKUPS = frozenset({"index", "index_select", "gather"})


@frozen
class ExactValues:
    """The values of a graph that have no quantizer by default.

    Attributes:
        values: the ``id`` of each of them.
        readers: the ``id`` of each node whose operands are all such values or constants, wherever else they are read.
    """

    values: frozenset[int]
    readers: frozenset[int]

    def at_input(self, node: Node, value: Value) -> bool:
        """Return True if `value` is exact as an operand of `node`."""
        return id(node) in self.readers or id(value) in self.values

    def at_output(self, value: Value) -> bool:
        """Return True if `value` is exact as a result."""
        return id(value) in self.values


def exact_values(graph: Graph, constant: Collection[int]) -> ExactValues:
    """Find the angles, scores and numbers of `graph`.

    Args:
        graph: the model.
        constant: the ``id`` of every value that depends on constants only.
    """
    ending, readers = _ending(graph)
    return ExactValues(frozenset(ending | _numbers(graph, constant)), frozenset(readers))


def _ending(graph: Graph) -> tuple[set[int], set[int]]:
    values: set[int] = set()
    readers: set[int] = set()
    for node in reversed(list(graph.nodes)):
        used = [result for result in node.results if result.uses]
        exact = [result for result in used if _all_uses_in(result, readers)]
        values.update(id(result) for result in exact if is_float(result))
        if _ends_exactness(node) or (used and len(exact) == len(used) and _passes_on(node)):
            readers.add(id(node))
    for entry in graph.inputs:
        if entry.value is not None and entry.value.uses and _all_uses_in(entry.value, readers):
            values.add(id(entry.value))
    return values, readers


def _all_uses_in(value: Value, readers: set[int]) -> bool:
    return all(id(use.user) in readers for use in value.uses)


def _ends_exactness(node: Node) -> bool:
    """Return True for sine, cosine, choices, casts to integers, and ops that read sizes only."""
    if not any(isinstance(result.type, TensorType) for result in node.results):
        return bool(node.results)
    is_cast = node.op.family in ("to", "_to_copy") and _is_integer(node.results[0])
    return node.op.dialect == "aten" and (node.op.family in _PERIODIC | _CHOOSING or is_cast)


def _passes_on(node: Node) -> bool:
    if node.op.family in PRODUCTS:
        roots = [root_constant(value) for _, _, value in node.operand_values()]
        return not any(root is not None and root.kind == "parameter" for root in roots)
    return node.op.has(Trait.ELEMENTWISE) or node.op.family in _ORDERED or only_moves_values(node)


def _numbers(graph: Graph, constant: Collection[int]) -> set[int]:
    counted: set[int] = set()  # values made from integers
    neutral: set[int] = set()  # values made from nothing, such as torch.zeros
    for node in graph.nodes:
        operands = [value for _, _, value in node.operand_values() if isinstance(value.type, TensorType)]
        if not operands:
            if node.op.is_repeatable:
                (counted if node.op.family in _COUNTING else neutral).update(map(id, node.results))
            continue
        made = [value for value in operands if id(value) in counted or _is_integer(value)]
        rest = [value for value in operands if id(value) not in counted and not _is_integer(value)]
        if (
            made
            and all(id(value) in constant or id(value) in neutral or _is_truth(value) for value in rest)
            and any(id(value) not in constant for value in made)
            and _passes_numbers(node)
        ):
            counted.update(map(id, node.results))
    return counted - _computed_on(graph, counted)


def _passes_numbers(node: Node) -> bool:
    if node.op.family in _PERIODIC or node.op.family in _LOOKUPS:
        return False
    return node.op.has(Trait.ELEMENTWISE) or only_moves_values(node)


def _computed_on(graph: Graph, counted: set[int]) -> set[int]:
    """Return the values of `counted` from which a layer or product computes, directly or through others of them."""
    found: set[int] = set()
    for node in reversed(list(graph.nodes)):
        computes = node.op.family in LAYERS or node.op.family in PRODUCTS
        if computes or any(id(result) in found for result in node.results):
            found.update(id(value) for _, _, value in node.operand_values() if id(value) in counted)
    return found


def _is_integer(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.is_integer


def _is_truth(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype is DType.BOOL

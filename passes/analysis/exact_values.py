"""Values that a quantizer only harms: arguments of sine and cosine, divisors, scores, and numbers made from integers.

An error of half a step in an angle of hundreds of radians is a different angle, a position or a time step that is
rounded to one of 256 codes is another position, and a small divisor that is rounded to zero makes a quotient infinite.
No backend gains from their codes either: what reads them is computed in floats. All are found by dataflow:

- *angles*: values of which every use ends in sine, cosine or a cast to integers, through elementwise ops, ops that move
  values, and products without a parameter. A layer on the way ends the search: its own input is an activation.
- *divisors*: values of which every use ends in a divisor, a reciprocal, an inverse square root or a logarithm, through
  elementwise ops and ops that move values. The variance of a norm that is spelled out is one.
- *scores*: values of which every use ends in a softmax, through the same ops. Masks in them have values far from all
  others, whatever their edge. The result of a layer or product is an activation, and keeps its quantizer.
- *numbers*: values computed from integers and constants only, through elementwise ops and ops that move values, unless
  a layer or a product computes on them. Integer images of which a convolution reads the normalized pixels are
  therefore activations. Truth values are no integers: two levels are exact in any codes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from attrs import frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.boundaries import is_float
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.analysis.fusion import LAYERS, PRODUCTS, FusionGroup, Role
from graphpress.passes.analysis.value_preserving import only_moves_values

_PERIODIC = frozenset({"sin", "cos"})
_RELATIVE = frozenset({"reciprocal", "rsqrt", "log", "log2", "log10"})  # the relative error of the operand decides
_SOFTMAX = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax"})
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
    """Find the angles, divisors, scores and numbers of `graph`.

    Args:
        graph: the model.
        constant: the ``id`` of every value that depends on constants only.
    """
    values, readers = _numbers(graph, constant), set[int]()
    for each in _SOUGHT:
        found = _leading_to(each, graph)
        values.update(id(value) for value in found[0] if not (each.keeps_activations and _is_activation(value)))
        readers |= found[1]
    return ExactValues(frozenset(values), frozenset(readers))


@frozen
class _Sought:
    """Values of which every use ends somewhere.

    Attributes:
        ends: returns True for a use in which they end.
        passes: returns True for a node whose operands are sought if its results are.
        keeps_activations: True if the result of a layer or product is quantized all the same.
    """

    ends: Callable[[Node, str], bool]
    passes: Callable[[Node], bool]
    keeps_activations: bool = False


def _leading_to(sought: _Sought, graph: Graph) -> tuple[list[Value], set[int]]:
    """Return the float values of which every use is sought, and the ids of the nodes that read only such values."""
    values: list[Value] = []
    readers: set[int] = set()

    def is_sought(value: Value) -> bool:
        return bool(value.uses) and all(
            id(use.user) in readers or (isinstance(use.user, Node) and sought.ends(use.user, use.operand))
            for use in value.uses
        )

    for node in reversed(list(graph.nodes)):
        used = [result for result in node.results if result.uses]
        found = [result for result in used if is_sought(result)]
        values += filter(is_float, found)
        if _reads_sizes(node) or (used and len(found) == len(used) and sought.passes(node)):
            readers.add(id(node))
    values += [entry.value for entry in graph.inputs if entry.value is not None and is_sought(entry.value)]
    return values, readers


def _reads_sizes(node: Node) -> bool:
    return bool(node.results) and not any(isinstance(result.type, TensorType) for result in node.results)


def _ends_angles(node: Node, operand: str) -> bool:
    """Return True for sine, cosine and casts to integers."""
    is_cast = node.op.family in ("to", "_to_copy") and _is_integer(node.results[0])
    return node.op.dialect == "aten" and (node.op.family in _PERIODIC or is_cast)


def _ends_divisors(node: Node, operand: str) -> bool:
    """Return True for divisors, powers with a negative exponent, and ops with the same relation to their operand."""
    if node.op.family == "pow":
        exponent = node.attributes.get("exponent")
        return operand == "self" and isinstance(exponent, int | float) and exponent < 0
    return node.op.family in _RELATIVE or (node.op.family == "div" and operand == "other")


def _ends_scores(node: Node, operand: str) -> bool:
    """Return True for softmax, and the mask of an attention."""
    return node.op.family in _SOFTMAX or operand == "attn_mask"


def _is_activation(value: Value) -> bool:
    """Return True for the result of a layer or product, with what is fused behind it."""
    node = value.node
    if node is None:
        return False
    group = node.annotation(FusionGroup)
    fused = group is not None and group.role is not Role.WHOLE
    return fused or node.op.family in LAYERS or node.op.family in PRODUCTS


def _passes_angles(node: Node) -> bool:
    if node.op.family in PRODUCTS:
        roots = [root_constant(value) for _, _, value in node.operand_values()]
        return not any(root is not None and root.kind == "parameter" for root in roots)
    return _passes(node)


def _passes(node: Node) -> bool:
    return node.op.has(Trait.ELEMENTWISE) or only_moves_values(node)


_SOUGHT = (
    _Sought(_ends_angles, _passes_angles),
    _Sought(_ends_divisors, _passes),
    _Sought(_ends_scores, _passes, keeps_activations=True),
)


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
    return _passes(node)


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

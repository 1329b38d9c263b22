"""Types of a prepared graph after its module was cast, as by ``half()``."""

from __future__ import annotations

from collections.abc import Mapping

from graphpress.ir.dtypes import DType
from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph, Node
from graphpress.ir.inference import TypeInferenceError, infer_element_types
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType, Type


class CastError(GraphpressError, TypeError):
    """A prepared model was cast to an element type that its ops do not take."""


def retype(graph: Graph, cast: Mapping[DType, DType]) -> None:
    """Give inputs and results the types that they have after the constants were cast, in place.

    As in the module, ops that name an element type keep it, and calls take inputs of the new one.

    Args:
        graph: a prepared graph, whose constants have their new types.
        cast: the new element type by the former one.

    Raises:
        CastError: naming an op that does not take operands of the new types.
    """
    changed: set[int] = {id(constant.value) for constant in graph.constants.values()}
    for graph_input in graph.inputs:
        value = graph_input.value
        if value is not None and isinstance(value.type, TensorType) and value.type.dtype in cast:
            value.type = value.type.with_dtype(cast[value.type.dtype])
            changed.add(id(value))
    for node in graph.nodes:
        if not any(id(value) in changed for _, _, value in node.operand_values()):
            continue
        for result, type in zip(node.results, _types(graph, node, cast), strict=True):
            if isinstance(type, TensorType) and isinstance(result.type, TensorType) and type.dtype != result.type.dtype:
                result.type = result.type.with_dtype(type.dtype)
                changed.add(id(result))


def _types(graph: Graph, node: Node, cast: Mapping[DType, DType]) -> tuple[Type, ...]:
    if node.op.has(Trait.OPAQUE):
        raise CastError(_message(node, cast, "has graphs of its own, with types of their own"))
    try:
        found = infer_element_types(node.op, node.operands, node.attributes, graph.symbols)
    except TypeInferenceError as error:
        raise CastError(_message(node, cast, f"fails: {error}")) from error
    return tuple(result.type for result in node.results) if found is None else found


def _message(node: Node, cast: Mapping[DType, DType], problem: str) -> str:
    casts = ", ".join(f"{before.long_name} to {after.long_name}" for before, after in cast.items())
    return (
        f"{node.name} ({node.location}): the prepared model was cast from {casts}, and {node.op.name} {problem}; "
        "accepted: casts of the model before prepare, or of the finalized model"
    )

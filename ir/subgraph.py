"""Extraction of subgraphs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph, GraphError, Node, Value
from graphpress.ir.types import Type


def neighbourhood(graph: Graph, name: str, hops: int) -> set[str]:
    """Return the names of the nodes at most `hops` steps from the node `name`, along operands or uses.

    Nodes that only share an input or constant are not neighbours.

    Raises:
        GraphError: if there is no such node, with similar names.
    """
    by_name = {node.name: node for node in graph.nodes}
    if name not in by_name:
        raise GraphError(f"graph {graph.name!r} has no node {name!r}{suggestion(name, by_name)}")
    found, edge = {name}, [by_name[name]]
    for _ in range(hops):
        near = [other for node in edge for other in _adjacent(node) if other.name not in found]
        edge = list({id(node): node for node in near}.values())
        found.update(node.name for node in edge)
    return found


def extract(graph: Graph, names: Collection[str]) -> Graph:
    """Return a new graph of the nodes `names` only, in their order, under their own names.

    Results of other nodes that they read become inputs named after those nodes; results that other nodes read become
    outputs. The inputs and constants they read are included; constant tensors are shared.
    """
    part = Graph(graph.name, symbols=dict(graph.symbols))
    part._names.update(names)  # reserves the names, so that new inputs do not take them
    kept = [node for node in graph.nodes if node.name in names]
    values: dict[int, Value] = {}

    def moved(operand: Any) -> Any:
        if isinstance(operand, tuple):
            return tuple(map(moved, operand))
        if not isinstance(operand, Value):
            return operand
        if id(operand) not in values:
            values[id(operand)] = _outside(operand, part)
        return values[id(operand)]

    for node in kept:
        operands = {name: moved(operand) for name, operand in node.operands.items()}
        types: list[Type] = [result.type for result in node.results]
        part._names.discard(node.name)
        made = part.insert(node.op, operands, node.attributes, types, name=node.name, location=node.location)
        made.annotations = dict(node.annotations)
        for old, result in zip(node.results, made.results, strict=True):
            values[id(old)] = result
    for node in kept:
        for result in node.results:
            if any(not isinstance(use.user, Node) or use.user.name not in names for use in result.uses):
                part.add_output(values[id(result)])
    return part


def _adjacent(node: Node) -> list[Node]:
    producers = [value.node for _, _, value in node.operand_values() if value.node is not None]
    return producers + [user for result in node.results for user in result.users]


def _outside(value: Value, part: Graph) -> Value:
    constant = value.constant
    if constant is not None:
        copy = part.add_constant(
            constant.name,
            constant._tensor,
            constant.kind,
            constant.names,
            type=constant.type,
            persistent=constant.persistent,
            digest=constant.digest,
            frozen=constant.frozen,
        )
        return copy.value
    made = part.add_input(value.name, value.type).value
    assert made is not None
    return made

"""The graphs inside a graph: bodies of higher-order ops, which nodes hold as attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphpress.ir.graph import Constant, Graph, Node


def nested_graphs(graph: Graph) -> Iterator[Graph]:
    """`graph` itself, then every graph in the attributes of its nodes, at any depth."""
    yield graph
    for node in graph.nodes:
        for body in bodies(node):
            yield from nested_graphs(body)


def bodies(node: Node) -> Iterator[Graph]:
    """The graphs in the attributes of `node`, inside tuples and dictionaries too, but not those inside these graphs."""
    for value in node.attributes.values():
        yield from _graphs_in(value)


def all_constants(graph: Graph) -> Iterator[Constant]:
    """The constants of `graph` and of the graphs inside it."""
    for inner in nested_graphs(graph):
        yield from inner.constants.values()


def _graphs_in(value: Any) -> Iterator[Graph]:
    if isinstance(value, Graph):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _graphs_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _graphs_in(item)

"""Graphs that are nested deeper than Python's stack."""

from __future__ import annotations

from graphpress.ir.graph import Graph, nested_graphs
from graphpress.ir.ops import lookup_op


def test_deeply_nested_graphs_are_walked_and_cloned():
    graph = Graph("g0")
    for depth in range(1, 2001):
        outer = Graph(f"g{depth}")
        outer.insert(lookup_op("hop.cond"), {}, {"arg1": (graph,)}, [])
        graph = outer
    copy = graph.clone()
    assert [each.name for each in nested_graphs(copy)] == [f"g{depth}" for depth in range(2000, -1, -1)]
    assert not {id(each) for each in nested_graphs(copy)} & {id(each) for each in nested_graphs(graph)}

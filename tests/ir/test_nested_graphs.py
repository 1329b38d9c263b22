"""Graphs that are nested deeper than Python's stack."""

from __future__ import annotations

from graphpress.ir.graph import Graph, nested_graphs
from graphpress.ir.ops import lookup_op
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.text.printer import exact_text, print_graph


def _nested(levels: int) -> Graph:
    graph = Graph("g0")
    for depth in range(1, levels + 1):
        outer = Graph(f"g{depth}")
        outer.insert(lookup_op("hop.cond"), {}, {"arg1": (graph,)}, [])
        graph = outer
    return graph


def test_deeply_nested_graphs_are_walked_and_cloned():
    graph = _nested(2000)
    copy = graph.clone()
    assert [each.name for each in nested_graphs(copy)] == [f"g{depth}" for depth in range(2000, -1, -1)]
    assert not {id(each) for each in nested_graphs(copy)} & {id(each) for each in nested_graphs(graph)}


def test_deeply_nested_graphs_are_printed():
    text = print_graph(_nested(500), locations=False)
    assert text.count("graph @") == 501
    shallow = exact_text(_nested(20))
    assert exact_text(parse_graph(shallow)) == shallow

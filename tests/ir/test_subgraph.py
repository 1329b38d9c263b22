"""A part of a graph is a graph, with the node names of the whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from graphpress.ir import parse_graph, print_graph, verify
from graphpress.ir.graph import GraphError
from graphpress.ir.interpreter import Interpreter
from graphpress.ir.subgraph import extract, neighbourhood
from graphpress.passes.framework.testing import GraphBuilder
from tests.ir.strategies import graphs, random_inputs


def diamond():
    builder = GraphBuilder()
    x = builder.input()
    shared = builder.constant("w", torch.ones(2, 4))
    top = builder.aten.mul.Tensor(x, shared, name="top")
    left, right = builder.aten.relu(top, name="left"), builder.aten.neg(top, name="right")
    bottom = builder.aten.add.Tensor(left, right, name="bottom")
    far = builder.aten.mul.Tensor(bottom, shared, name="far")
    return builder.outputs(far)


def test_hops_go_along_operands_and_uses_but_not_through_constants():
    graph = diamond()
    assert neighbourhood(graph, "top", 0) == {"top"}
    assert neighbourhood(graph, "top", 1) == {"top", "left", "right"}
    assert neighbourhood(graph, "left", 1) == {"top", "left", "bottom"}
    assert neighbourhood(graph, "left", 2) == {"top", "left", "bottom", "right", "far"}


def test_a_missing_node_brings_near_names():
    with pytest.raises(GraphError, match="no node 'botom'; did you mean 'bottom'"):
        neighbourhood(diamond(), "botom", 1)


def test_what_crosses_the_edge_becomes_inputs_and_outputs():
    part = extract(diamond(), {"left", "bottom"})
    verify(part)
    assert [node.name for node in part.nodes] == ["left", "bottom"]
    assert [graph_input.name for graph_input in part.inputs] == ["top", "right"]
    assert [output.value.name for output in part.user_outputs()] == ["bottom"]
    assert not part.constants


def has_one_qualified_name_twice(graph):
    names = [name for constant in graph.constants.values() for name in constant.names]
    return len(names) != len(set(names))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.data())
def test_a_part_computes_what_the_whole_does_and_prints_as_a_graph(graph, data):
    nodes = list(graph.nodes)
    assume(nodes and not has_one_qualified_name_twice(graph))
    chosen = data.draw(st.sets(st.sampled_from([node.name for node in nodes]), min_size=1))
    part = extract(graph, chosen)
    verify(part)
    assert parse_graph(print_graph(part)).nodes
    seen = {}
    inputs = random_inputs(graph)
    for graph_input, value in zip(graph.inputs, inputs, strict=True):
        seen[graph_input.name] = value

    def note(node, results):
        for result, got in zip(node.results, results, strict=True):
            seen[result.name] = got

    whole = Interpreter(graph, observe=note)
    whole.run(inputs)
    got = Interpreter(part).run([seen[graph_input.name] for graph_input in part.inputs])
    for output, value in zip(part.user_outputs(), got, strict=True):
        torch.testing.assert_close(value, seen[output.value.name], rtol=0, atol=0, equal_nan=True)

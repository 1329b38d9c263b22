"""The rewriter: where nodes are put, and what it remembers of those it made."""

from __future__ import annotations

import pytest

from graphpress.ir.graph import GraphError
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.verifier import verify
from tests.graph_builder import GraphBuilder, relu_chain


def test_a_node_is_put_right_after_another_with_its_location():
    graph = relu_chain(3)
    rewriter, second = Rewriter(graph), graph.node("relu_1")
    made = rewriter.insert_after(second, "aten.neg", {"self": second.result}, name="minus")
    assert [node.name for node in graph.nodes] == ["relu", "relu_1", "minus", "relu_2"]
    assert made.location == second.location
    rewriter.replace_uses(second.result, made.result, where=lambda use: use.user is not made)
    assert graph.node("relu_2").operand("self") is made.result
    verify(graph)


def test_a_node_is_put_after_the_last_one_and_several_stand_in_reverse():
    graph = relu_chain(1)
    rewriter, last = Rewriter(graph), graph.node("relu")
    for op in ("aten.neg", "aten.abs"):
        rewriter.insert_after(last, op, {"self": last.result})
    assert [node.op.short_name for node in graph.nodes] == ["relu", "abs", "neg"]
    assert [node.op.short_name for node in reversed(graph.nodes)] == ["neg", "abs", "relu"]


def test_a_location_that_is_given_counts_and_attributes_are_taken():
    b = GraphBuilder()
    x = b.input()
    first, second = b.node("aten.relu", x), b.node("aten.tanh", x)
    rewriter = Rewriter(b.graph)
    made = rewriter.insert_after(second, "aten.clamp_max", {"self": x}, {"max": 2.0}, location=first.location)
    assert (made.location, made.attribute("max")) == (first.location, 2.0)
    rewriter.replace(second, made.result)
    assert made.location == first.location


def test_nothing_is_put_after_a_node_of_another_graph():
    graph, other = relu_chain(2), relu_chain(2)
    with pytest.raises(GraphError, match="relu_1 is not in graph 'main'"):
        Rewriter(graph).insert_after(other.node("relu"), "aten.neg", {"self": graph.node("relu").result})
    assert len(graph.nodes) == 2


def test_what_was_made_is_known_until_it_stands_for_something_or_another_rewrite_begins():
    graph = relu_chain(2)
    rewriter, (first, second) = Rewriter(graph), graph.nodes
    made = rewriter.insert_before(second, "aten.neg", {"self": first.result})
    placed = rewriter.insert_after(second, "aten.abs", {"self": second.result})
    assert rewriter.made == [made, placed]
    rewriter.begin("another", second)
    assert rewriter.made == []
    new = rewriter.insert_before(second, "aten.tanh", {"self": first.result})
    rewriter.replace([first, second], new.result)
    assert rewriter.made == []
    assert [origin.module_path for origin in new.location.origins] == ["block.relu", "block.relu_1"]
    assert [origin.module_path for origin in made.location.origins] == ["block.relu_1"]  # it belongs to no replacement

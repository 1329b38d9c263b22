"""What the index of the rules leaves to the matcher, and that it follows the edits of a graph."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import Match, rule
from graphpress.passes.framework.patterns import Any, Op
from graphpress.passes.framework.rule_index import RuleIndex
from graphpress.passes.framework.testing import GraphBuilder
from tests.passes.framework.test_compiled import graphs, patterns


def rules_of(patterns):
    return [rule(pattern, name=str(place))(lambda match, rewriter: None) for place, pattern in enumerate(patterns)]


def left(index, graph):
    return [[each.name for each in index.candidates(node)] for node in graph.nodes]


def read_an_earlier_value(graph, rewriter, draw):
    """Let a node read another value that is computed before it."""
    nodes = list(graph.nodes)
    place = draw(st.integers(0, len(nodes) - 1))
    earlier = [graph.inputs[0].value, *(node.result for node in nodes[:place])]
    name = draw(st.sampled_from(sorted(nodes[place].operands)))
    rewriter.set_operand(nodes[place], name, draw(st.sampled_from(earlier)))


def insert_a_node(graph, rewriter, draw):
    """Let the readers of a node read a new node that reads it."""
    old = draw(st.sampled_from(list(graph.nodes)))
    made = rewriter.insert_after(old, draw(st.sampled_from(("aten.relu", "aten.tanh"))), {"self": old.result})
    rewriter.replace_uses(old.result, made.result, where=lambda use: use.user is not made)


def drop_a_node(graph, rewriter, draw):
    """Replace a node by what it reads first."""
    old = draw(st.sampled_from(list(graph.nodes)))
    rewriter.replace(old, old.operands["self"])


@settings(max_examples=300, deadline=None)
@given(graphs(), st.lists(patterns(), min_size=1, max_size=3), st.data())
def test_an_index_that_follows_edits_leaves_what_a_new_one_leaves_and_all_that_matches(graph, patterns, data):
    rules, touched = rules_of(patterns), []
    index, rewriter = RuleIndex(rules), Rewriter(graph, listener=touched.append)
    index.follow(graph)
    for edit in data.draw(st.lists(st.sampled_from((read_an_earlier_value, insert_a_node, drop_a_node)), max_size=4)):
        if graph.nodes:
            touched.clear()
            edit(graph, rewriter, data.draw)
            index.refresh(touched)
        fresh = RuleIndex(rules)
        fresh.follow(graph)
        found = left(index, graph)
        assert found == left(fresh, graph)
        for node, names in zip(graph.nodes, found, strict=True):
            assert {each.name for each in rules if isinstance(each.match(node), Match)} <= set(names)


def sum_of(leaf, depth):
    for _ in range(depth):
        leaf = Op("aten.add.Tensor", leaf, Any())
    return leaf


def test_an_op_that_is_missing_far_from_the_root_rules_a_pattern_out():
    b = GraphBuilder()
    before, last = b.input("x"), b.aten.relu(b.input("y"))
    for _ in range(12):
        before, last = last, b.aten.add.Tensor(last, before)
    graph = b.outputs(last)
    index = RuleIndex(rules_of([sum_of(Op("aten.tanh", ...), 8), sum_of(Op("aten.relu", ...), 8)]))
    index.follow(graph)
    # The relu is read by the first two sums: it is at most 12 of them away, and at least 6.
    assert left(index, graph) == [[], *([] for _ in range(7)), *(["1"] for _ in range(5))]


def test_without_following_a_graph_only_what_cannot_match_is_ruled_out():
    b = GraphBuilder()
    value = b.aten.relu(b.aten.tanh(b.aten.tanh(b.input("x"))))
    graph = b.outputs(value)
    deep = Op("aten.relu", Op("aten.tanh", Op("aten.neg", Any())))
    shallow = Op("aten.relu", Op("aten.neg", Any()))
    assert left(RuleIndex(rules_of([deep, shallow])), graph) == [[], [], ["0"]]


def test_another_result_of_a_node_than_the_pattern_names_rules_it_out():
    b = GraphBuilder()
    halves = b.node("aten.split.Tensor", b.input("x"), 2).results
    graph = b.outputs(*(b.aten.relu(half) for half in halves))
    split = Op("aten.split.Tensor", ...)
    index = RuleIndex(rules_of([Op("aten.relu", split.result(place)) for place in range(3)]))
    assert left(index, graph)[1:] == [[str(place)] if place < 3 else [] for place in range(len(halves))]

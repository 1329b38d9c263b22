from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.testing import GraphBuilder, op_names
from tests.ir.strategies import graphs


def walked(graph, wanted):
    return [node for node in graph.nodes if wanted(node.op)]


@given(graphs(max_nodes=10), st.data())
def test_nodes_are_found_in_execution_order_whatever_was_edited(graph, data):
    families = sorted({node.op.family for node in graph.nodes})
    chosen = data.draw(st.sets(st.sampled_from(families))) if families else set()

    def wanted(op):
        return op.family in chosen

    assert list(graph.nodes_of(wanted)) == walked(graph, wanted)
    assert set(graph.ops) == {node.op for node in graph.nodes}
    rewriter = Rewriter(graph)
    for node in list(graph.nodes):
        if data.draw(st.booleans()):
            rewriter.insert_before(node, node.op.name, dict(node.operands), dict(node.attributes))
            assert list(graph.nodes_of(wanted)) == walked(graph, wanted)
        elif not any(result.uses for result in node.results):
            rewriter.erase(node)
            assert list(graph.nodes_of(wanted)) == walked(graph, wanted)
        assert set(graph.ops) == {node.op for node in graph.nodes}
    assert all(node.graph is graph for node in graph.nodes_of(wanted))
    copy = graph.clone()
    assert set(copy.ops) == set(graph.ops)
    assert all(node.graph is copy for node in copy.nodes_of(wanted))


def test_nodes_erased_or_made_meanwhile_are_not_visited():
    b = GraphBuilder()
    x = b.input()
    first = b.aten.relu(x)
    b.aten.relu(x)
    graph = b.outputs(b.aten.relu(first))
    rewriter, visited = Rewriter(graph), []
    for node in graph.nodes_of(lambda op: op.family == "relu"):
        visited.append(node.name)
        for other in list(graph.nodes):
            if not other.result.uses:
                rewriter.erase(other)
        if len(visited) == 1:
            rewriter.insert_before(None, "aten.relu", {"self": node.result})
    assert visited == ["relu", "relu_2"]
    assert op_names(graph) == ["relu", "relu"]

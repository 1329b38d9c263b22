"""Nodes read by one regular expression are those that the token-by-token parser reads, faults included."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphpress.ir import ParseError, difference, parse_graph, print_graph
from graphpress.ir.graph import Graph
from graphpress.ir.text.node_lines import NodeLines
from graphpress.ir.text.parser import _GraphReader
from tests.ir.strategies import graphs

HEAD = "graph @main {\n  input %x: f32[2]\n  %a: f32[2] = aten.relu(self=%x)\n"
TAIL = "  return %a\n}\n"


def by_tokens(text: str) -> Graph | str:
    """The graph, or the error, without the regular expression."""
    with mock.patch.object(NodeLines, "read", return_value=None):
        return by_lines(text)


def by_lines(text: str) -> Graph | str:
    try:
        return parse_graph(text)
    except ParseError as error:
        return str(error)


def assert_both_read_the_same(text: str) -> None:
    expected, found = by_tokens(text), by_lines(text)
    if isinstance(expected, Graph):
        assert isinstance(found, Graph), found
        assert difference(found, expected) is None
    else:
        assert found == expected


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(max_nodes=5), st.data())
def test_damaged_text_gives_the_same_graph_or_error(graph: Graph, data: st.DataObject) -> None:
    text = print_graph(graph)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 6)))
    inserted = data.draw(st.one_of(st.text("%@=(){}[],:#/ \n0a", max_size=3), st.just(text[start : start + 30])))
    assert_both_read_the_same(text[:start] + inserted + text[end:])


@pytest.mark.parametrize(
    "line",
    [
        "%b: f32[2] = aten.add.Tensor(self=%a, other=%x)",
        "%b: f32[2] = aten.add.Tensor(self=%a, other=%x) {alpha=2} loc(0, 1)",
        "%b: f32[2] = aten.add.Tensor(self=%a, other=%x) {alpha=2, alpha=3}",
        "%b: f32[2] = aten.add.Tensor(self=%a, other=%x) {self=2}",
        "%b: f32[2] = aten.add.Tensor(self=%a, other=%x) {alpha=2 // two\n}",
        "%b: f32[2] = aten.add.Tensor(self=%a, other=%x)\n {alpha=2}",
        "%b: f32[2] = aten.add.Tensor(self=%a, other=%x)\n loc(7)",
        "%b: f32[2] = aten.add.Tensor(self=%a, other=%nothing) {alpha=}",
        "%b: f32[2] = aten.add.Tensor(self=%a, self=%x)",
        "%b: f32[2] = aten.add.Tensor(self=%a, others=%x)",
        "%b: f32[2] = aten.add.Tensor(self=%a,)",
        "%a: f32[2] = aten.relu(self=%x)",
        "%b: f33[2] = aten.relu(self=%x)",
        "%b: f32[2] = aten.rely(self=%x)",
        "%b: f32[2] = aten.relu(self=%a#0)",
        "%b: f32[2] = aten.cat(tensors=[%a, %x]) {dim=0}",
        "%b: f32[2] = aten.reshape(self=%a) {shape=[1, -1]} // a comment",
    ],
)
def test_a_line_gives_the_same_graph_or_error(line: str) -> None:
    assert_both_read_the_same(f"{HEAD}  {line}\n{TAIL}")


def test_the_parser_reads_only_the_first_node_of_each_op_by_tokens() -> None:
    lines = [f"  %b{i}: f32[2] = aten.add.Tensor(self=%a, other=%x) {{alpha={i + 2}}}\n" for i in range(5)]
    with mock.patch.object(_GraphReader, "_node", autospec=True, side_effect=_GraphReader._node) as by_token:
        graph = parse_graph(HEAD + "".join(lines) + TAIL)
    assert by_token.call_count == 2
    assert [node.attributes.get("alpha") for node in graph.nodes] == [None, 2, 3, 4, 5, 6]

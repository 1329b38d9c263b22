"""Edits of values with many uses cost time linear in the uses."""

import pytest

from graphpress.ir import graph as graph_module
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph
from graphpress.ir.ops import lookup_op
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import verify
from graphpress.passes.cse import Cse
from graphpress.passes.framework import run_pass

WIDTH = 300
TYPE = TensorType(DType.FLOAT32, (1, 4))


class CountedUses(dict):
    """A use list that counts the entries made."""

    made = 0

    def __setitem__(self, use, nothing):
        CountedUses.made += 1
        super().__setitem__(use, nothing)


@pytest.fixture
def uses_made(monkeypatch):
    """A function that tells how many entries of use lists were made since the last call."""
    plain = graph_module.Value.__init__

    def counted(value, *args):
        plain(value, *args)
        value._uses = CountedUses()

    monkeypatch.setattr(graph_module.Value, "__init__", counted)

    def made():
        count, CountedUses.made = CountedUses.made, 0
        return count

    return made


def concat_of_branches(width):
    """A concat of `width` equal branches."""
    graph = Graph()
    x = graph.add_input("x", TYPE).value
    rewriter = Rewriter(graph)
    branches = [rewriter.insert_before(None, "aten.relu", {"self": x}).result for _ in range(width)]
    graph.add_output(rewriter.insert_before(None, "aten.cat", {"tensors": branches}).result)
    return graph


def test_replacing_a_value_that_one_node_reads_many_times_rebuilds_its_list_once(uses_made):
    graph = Graph()
    x, y = graph.add_input("x", TYPE).value, graph.add_input("y", TYPE).value
    types = [TensorType(DType.FLOAT32, (WIDTH, 4))]
    cat = graph.insert(lookup_op("aten.cat"), {"tensors": [x] * WIDTH}, {}, types)
    graph.add_output(cat.result)
    assert uses_made() > WIDTH
    moved = graph.replace_uses(x, y)
    assert moved == WIDTH
    assert cat.operands["tensors"] == (y,) * WIDTH
    assert (x.use_count, y.use_count) == (0, WIDTH)
    assert [use.index for use in y.uses] == list(range(WIDTH))
    assert uses_made() <= WIDTH
    verify(graph)


def test_where_chooses_among_the_reads_of_one_list():
    graph = Graph()
    x, y = graph.add_input("x", TYPE).value, graph.add_input("y", TYPE).value
    cat = graph.insert(lookup_op("aten.cat"), {"tensors": [x] * 4}, {}, [TensorType(DType.FLOAT32, (4, 4))])
    graph.add_output(cat.result)
    graph.replace_uses(x, y, where=lambda use: use.index in (1, 3))
    assert cat.operands["tensors"] == (x, y, x, y)
    verify(graph)


def test_merging_the_branches_of_a_concat_makes_uses_linear_in_its_width(uses_made):
    graph = concat_of_branches(WIDTH)
    assert uses_made() > WIDTH
    merged = run_pass(Cse(), graph, in_place=True).graph
    cat = merged.nodes[-1]
    assert len(merged.nodes) == 2
    assert len(set(map(id, cat.operands["tensors"]))) == 1
    assert uses_made() <= 4 * WIDTH


def test_merging_the_branches_of_a_concat_rebuilds_its_list_once():
    result = run_pass(Cse(), concat_of_branches(WIDTH))
    (cat,) = (node for node in result.graph.nodes if node.op.name == "aten.cat")
    assert len(set(cat.operands["tensors"])) == 1
    assert result.records[0].changed == 1

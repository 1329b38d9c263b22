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

    def __ior__(self, uses):
        CountedUses.made += len(uses)
        return super().__ior__(uses)


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


def test_a_mutation_target_stays_when_all_reads_move():
    graph = Graph()
    x, y = graph.add_input("x", TYPE).value, graph.add_input("y", TYPE).value
    relus = [graph.insert(lookup_op("aten.relu"), {"self": x}, {}, [TYPE]) for _ in range(2)]
    graph.add_output(relus[1].result, "input_mutation", target=x)
    graph.add_output(x)
    assert graph.replace_uses(x, y) == 3
    assert [use.operand for use in x.uses] == ["target"]
    assert [use.user for use in y.uses] == [*relus, graph.outputs[1]]
    assert [relu.operands["self"] for relu in relus] == [y, y]
    assert graph.outputs[1].value is y


def test_replacing_a_value_by_itself_keeps_its_uses():
    graph = Graph()
    x = graph.add_input("x", TYPE).value
    cat = graph.insert(lookup_op("aten.cat"), {"tensors": [x] * 4}, {}, [TensorType(DType.FLOAT32, (4, 4))])
    graph.add_output(cat.result)
    assert graph.replace_uses(x, x) == 4
    assert [(use.user, use.index) for use in x.uses] == [(cat, index) for index in range(4)]
    verify(graph)


def test_lists_that_read_a_value_in_turns_are_all_rebuilt():
    graph = Graph()
    x, y, a, b = (graph.add_input(name, TYPE).value for name in "xyab")
    types = [TensorType(DType.FLOAT32, (2, 4))]
    cats = [graph.insert(lookup_op("aten.cat"), {"tensors": [a, b]}, {}, types) for _ in range(2)]
    for value in (a, b):
        graph.replace_uses(value, x)
    assert [(use.user, use.index) for use in x.uses] == [(cat, index) for index in range(2) for cat in cats]
    graph.replace_uses(x, y)
    assert [cat.operands["tensors"] for cat in cats] == [(y, y), (y, y)]
    assert (x.use_count, y.use_count) == (0, 4)


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

from __future__ import annotations

import pytest
import torch
from attrs import frozen

from graphpress.ir.annotations import annotation
from graphpress.ir.ops import OpDef, register_op
from graphpress.passes.cse import Cse
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, f32, op_names

register_op(OpDef("cse-test.table", variadic=True))


@annotation("cse-test.note")
@frozen
class Note:
    number: int


def run(graph, **options):
    return Runner(verify=False).run(graph, Pipeline(Cse(**options))).graph


def test_equal_chains_become_one_that_stands_for_both_places():
    builder = GraphBuilder()
    x = builder.input()
    ends = [builder.aten.neg(builder.aten.relu(x)) for _ in range(3)]
    graph = run(builder.outputs(*ends))
    assert op_names(graph) == ["relu", "neg"]
    assert len({id(output.value) for output in graph.outputs}) == 1
    assert [origin.module_path for origin in graph.node("relu").location.origins] == [
        "block.relu",
        "block.relu_1",
        "block.relu_2",
    ]


@pytest.mark.parametrize(
    ("op", "one", "other", "merged"),
    [
        ("aten.mul.Tensor", "ab", "ba", True),
        ("aten.add.Tensor", "ab", "ba", True),
        ("aten.sub.Tensor", "ab", "ba", False),
        ("aten.div.Tensor", "ab", "ab", True),
    ],
)
def test_operands_may_be_swapped_only_where_the_op_commutes(op, one, other, merged):
    builder = GraphBuilder()
    values = {"a": builder.input("a"), "b": builder.input("b")}
    ends = [builder.op(op, *(values[name] for name in names)) for names in (one, other)]
    assert len(run(builder.outputs(*ends)).nodes) == (1 if merged else 2)


def test_a_scaled_add_does_not_commute():
    builder = GraphBuilder()
    a, b = builder.input("a"), builder.input("b")
    ends = [builder.aten.add.Tensor(a, b, alpha=2), builder.aten.add.Tensor(b, a, alpha=2)]
    assert len(run(builder.outputs(*ends)).nodes) == 2


@pytest.mark.parametrize(("one", "other"), [(1, 2), (1, 1.0), (1, True), (0.0, -0.0)])
def test_attributes_that_only_look_equal_keep_nodes_apart(one, other):
    builder = GraphBuilder()
    x = builder.input()
    ends = [builder.aten.mul.Tensor(x, number) for number in (one, other, one)]
    assert len(run(builder.outputs(*ends)).nodes) == 2


def test_attributes_that_have_no_hash_keep_nodes_apart():
    builder = GraphBuilder()
    x = builder.input()
    for _ in range(2):
        builder.graph.add_output(builder.op("cse-test.table", x, table={"a": [1]}, types=[x.type]))
    assert len(run(builder.graph).nodes) == 2


@pytest.mark.parametrize(("one", "other", "count"), [(Note(1), Note(1), 1), (Note(1), Note(2), 2), (Note(1), None, 2)])
def test_annotations_that_differ_keep_nodes_apart(one, other, count):
    builder = GraphBuilder()
    x = builder.input()
    notes = ([note] if note is not None else [] for note in (one, other))
    ends = [builder.aten.relu(x, annotations=note) for note in notes]
    assert len(run(builder.outputs(*ends)).nodes) == count


def test_list_operands_are_compared_item_by_item():
    builder = GraphBuilder()
    x, y = builder.input("x"), builder.input("y")
    ends = [builder.aten.cat(pair) for pair in ([x, y], [y, x], [x, y])]
    graph = run(builder.outputs(*ends))
    assert [node.operands["tensors"] for node in graph.nodes] == [
        tuple(graph.inputs[place].value for place in places) for places in ((0, 1), (1, 0))
    ]


def test_what_was_merged_is_counted():
    builder = GraphBuilder()
    x = builder.input("x", f32[3])
    ends = [builder.aten.mul.Tensor(x, builder.constant("c", torch.ones(3), "literal")) for _ in range(3)]
    record = Runner().run(builder.outputs(*ends), Pipeline(Cse())).records[0]
    assert record.statistics == {"constants": 2, "nodes": 2}


def test_a_graph_with_in_place_ops_says_why_it_is_left_alone():
    builder = GraphBuilder()
    graph = builder.outputs(builder.aten.add_.Tensor(builder.aten.clone(builder.input()), 1))
    (report,) = Runner(verify=False).run(graph, Pipeline(Cse())).records[0].reports
    assert "writes to its operand; nothing was merged" in str(report)


def test_constants_that_are_written_to_or_of_another_kind_stay():
    builder = GraphBuilder()
    x = builder.input("x", f32[3])
    constants = [builder.constant(f"c{i}", torch.ones(3), "buffer") for i in range(3)]
    constants.append(builder.constant("c3", torch.ones(3)))
    builder.write(constants[1], x)
    graph = run(builder.outputs(*(builder.aten.mul.Tensor(x, c) for c in constants)), tie_weights=True)
    assert {name: constant.names for name, constant in graph.constants.items()} == {
        "c0": ("c0", "c2"),
        "c1": ("c1",),
        "c3": ("c3",),
    }


def test_random_nodes_are_never_merged():
    builder = GraphBuilder()
    x = builder.input()
    ends = [builder.aten.dropout(x, 0.5, True) for _ in range(2)]
    assert len(run(builder.outputs(*ends)).nodes) == 2


def test_a_graph_with_in_place_ops_is_left_alone():
    builder = GraphBuilder()
    x = builder.input()
    one, other = (builder.aten.clone(x) for _ in range(2))
    written = builder.aten.add_.Tensor(one, 1)
    assert len(run(builder.outputs(written, other)).nodes) == 3


def constants_after(kind, **options):
    builder = GraphBuilder()
    x = builder.input("x", f32[3])
    tensors = [torch.ones(3), torch.ones(3), torch.zeros(3), torch.ones(3, dtype=torch.float64)]
    constants = [builder.constant(f"c{i}", tensor, kind) for i, tensor in enumerate(tensors)]
    return run(builder.outputs(*(builder.aten.mul.Tensor(x, c) for c in constants)), **options)


def test_literals_with_equal_content_are_merged_and_then_their_readers():
    graph = constants_after("literal")
    assert list(graph.constants) == ["c0", "c2", "c3"]
    assert len(graph.nodes) == 3


def test_equal_weights_are_tied_only_when_asked():
    assert len(constants_after("parameter").constants) == 4
    graph = constants_after("parameter", tie_weights=True)
    assert graph.constants["c0"].names == ("c0", "c1")

from __future__ import annotations

import pytest
import torch

from graphpress.passes.cse import Cse
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, f32, op_names


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

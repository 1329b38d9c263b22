"""The builder of small graphs, and the harness that must reject passes that break their promises."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen

from graphpress.ir import VerificationError, run
from graphpress.ir.annotations import annotation
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import GraphError
from graphpress.ir.location import UNKNOWN
from graphpress.ir.ops import OpError
from graphpress.ir.types import ScalarType, Symbol, SymDim, TensorType
from graphpress.passes.framework import CLOSE, EXACT, Pass, Pipeline
from graphpress.passes.framework.testing import (
    ElementType,
    GraphBuilder,
    assert_effect,
    assert_idempotent,
    assert_independent,
    boolean,
    f32,
    i64,
    op_names,
    renamed,
    reordered,
)


@annotation("builder-test.mark")
@frozen
class Mark:
    number: int


X = torch.linspace(-2, 2, 8).reshape(2, 4)


# types


def test_types_are_written_as_the_text_form_prints_them():
    assert f32[2, 3] == TensorType(DType.FLOAT32, (2, 3))
    assert str(f32[2, 3]) == "f32[2, 3]"
    assert i64[5] == TensorType(DType.INT64, (5,))
    assert f32[()] == TensorType(DType.FLOAT32, ())
    assert boolean[[2, 2]] == TensorType(DType.BOOL, (2, 2))
    assert ElementType(DType.INT4)[8].dtype is DType.INT4


def test_a_string_is_a_symbolic_dim():
    assert f32["s0", 4].shape == (SymDim("s0"), 4)
    assert f32["s0"].shape == (SymDim("s0"),)
    assert f32[SymDim("s0*2")].shape == (SymDim("s0*2"),)


# the builder


def test_a_graph_computes_what_its_calls_say():
    build = GraphBuilder()
    weight = build.constant("weight", torch.full((3, 4), 0.5))
    graph = build.outputs(build.aten.relu(build.aten.linear(build.input(), weight)))
    assert torch.equal(run(graph, [X])[0], torch.relu(X @ torch.full((4, 3), 0.5)))
    assert op_names(graph) == ["linear", "relu"]
    assert [node.result.type for node in graph.nodes] == [f32[2, 3], f32[2, 3]]


def test_overloads_attributes_and_lists_of_values_are_arguments():
    build = GraphBuilder()
    x, y = build.input("x"), build.input("y", f32[2, 4])
    total = build.aten.add.Tensor(x, other=y, alpha=3)
    graph = build.outputs(build.aten.cat([total, x], 1))
    assert graph.node("add").attributes == {"alpha": 3}
    assert graph.node("add").operands == {"self": x, "other": y}
    assert graph.node("cat").operands["tensors"] == (total, x)
    assert graph.node("cat").attributes == {"dim": 1}
    assert torch.equal(run(graph, [X, X + 1])[0], torch.cat([X + 3 * (X + 1), X], 1))


def test_arguments_that_equal_the_default_are_left_out():
    build = GraphBuilder()
    clamp = build.node("aten.clamp", build.input(), None, 1.0)
    assert clamp.attributes == {"max": 1.0}
    assert build.node("aten.add.Tensor", clamp.result, clamp.result, alpha=1).attributes == {}


def test_an_operand_may_be_named_self():
    build = GraphBuilder()
    assert build.aten.neg(self=build.input()).node.op.name == "aten.neg"


def test_ops_are_found_by_name_too_and_those_with_many_results_as_nodes():
    build = GraphBuilder()
    split = build.node("aten.split.Tensor", build.op("aten.neg", build.input()), 1, name="halves")
    graph = build.outputs(*split.results)
    assert split.name == "halves"
    assert len(run(graph, [X])) == 2
    with pytest.raises(GraphError, match="has 2 results, not one"):
        GraphBuilder(graph).aten.split.Tensor(graph.inputs[0].value, 1)


def test_unknown_ops_and_arguments_too_many_are_refused():
    build = GraphBuilder()
    x = build.input()
    with pytest.raises(OpError, match=r"no op 'aten\.rleu'"):
        build.aten.rleu(x)
    with pytest.raises(OpError, match="takes 1 arguments, got 2"):
        build.aten.relu(x, x)


def test_sub_byte_codes_have_a_type_of_their_own():
    build = GraphBuilder()
    codes = build.constant("codes", torch.tensor([-8, 7], dtype=torch.int8), "buffer", type=ElementType(DType.INT4)[2])
    scale = build.constant("scale", torch.tensor([0.5]), "buffer")
    graph = build.outputs(build.quant.blockwise_shift_scale(codes, scale, dtype=DType.INT4))
    assert codes.type == ElementType(DType.INT4)[2]
    assert graph.constants["codes"].kind == "buffer"
    assert run(graph, [])[0].tolist() == [-4.0, 3.5]


def test_every_node_says_where_it_comes_from():
    build = GraphBuilder()
    first = build.aten.neg(build.input())
    second = build.node("aten.neg", first, location=UNKNOWN)
    assert str(first.node.location) == "block.neg (Neg) at model.py:11"
    assert second.location == UNKNOWN


def test_annotations_lie_on_their_node():
    build = GraphBuilder()
    node = build.node("aten.neg", build.input(), annotations=[Mark(3)])
    assert node.annotation(Mark) == Mark(3)


def test_result_types_may_be_given():
    build = GraphBuilder()
    build.graph.symbols["s0"] = Symbol(1, None, 4)
    x = build.input("x", f32["s0", 4])
    assert build.aten.cumsum(x, dim=1, types=[f32["s0", 4]]).type == f32["s0", 4]
    with pytest.raises(GraphError, match=r"cannot infer the result types of aten\.cumsum"):
        build.aten.cumsum(x, dim=1)


def test_inputs_need_not_be_tensors():
    assert GraphBuilder().input("n", ScalarType("int")).type == ScalarType("int")


def test_buffers_and_inputs_may_be_written_to():
    build = GraphBuilder()
    x, count = build.input(), build.constant("count", torch.zeros(2, 4), "buffer")
    build.write(count, build.aten.neg(x))
    build.write(x, x)
    graph = build.outputs()
    assert [(output.kind, output.target.name) for output in graph.outputs] == [
        ("buffer_mutation", "count"),
        ("input_mutation", "x"),
    ]


def test_an_invalid_graph_is_not_handed_out():
    build = GraphBuilder()
    build.constant("unread", torch.ones(2))
    with pytest.raises(VerificationError, match="constant 'unread' is dangling"):
        build.outputs(build.input())


def test_a_builder_appends_to_the_graph_it_is_given():
    build = GraphBuilder()
    graph = build.outputs(build.aten.neg(build.input()))
    more = GraphBuilder(graph)
    assert more.outputs(more.aten.relu(graph.inputs[0].value)) is graph
    assert op_names(graph) == ["neg", "relu"]
    assert len(graph.outputs) == 2


def test_there_are_no_ops_with_dunder_names():
    with pytest.raises(AttributeError):
        getattr(GraphBuilder().aten, "__wrapped__")  # noqa: B009


# the harness


def small_graph():
    build = GraphBuilder()
    negated = build.aten.neg(build.input())
    return build.outputs(build.aten.sub.Tensor(build.aten.relu(negated), build.aten.exp(negated)))


@frozen
class Silent(Pass):
    """Changes nothing."""

    effect = EXACT

    def run(self, graph, rewriter, context):
        """Nothing."""


@frozen
class NegAway(Pass):
    """Forgets a sign."""

    effect = CLOSE()

    def run(self, graph, rewriter, context):
        """Read what the neg reads."""
        node = graph.node("neg")
        rewriter.replace(node, node.operand("self"))


@frozen
class Located(Pass):
    """Makes the same node again, at `location`."""

    effect = EXACT
    keeps_location: bool = True

    def run(self, graph, rewriter, context):
        """Replace the neg by its twin."""
        node = next(node for node in graph.nodes if node.op.short_name == "neg")
        twin = rewriter.insert_before(node, "aten.neg", dict(node.operands))
        rewriter.replace(node, twin.result)
        if not self.keeps_location:
            twin.location = UNKNOWN


@frozen
class SwapsByName(Pass):
    """Reads the names of nodes, or their order, which no pass may."""

    effect = EXACT
    reads: str = "names"

    def run(self, graph, rewriter, context):
        """Replace one of relu and exp."""
        relu, exp = (next(n for n in graph.nodes if n.op.short_name == op) for op in ("relu", "exp"))
        nodes = list(graph.nodes)
        is_first = relu.name < exp.name if self.reads == "names" else nodes.index(relu) < nodes.index(exp)
        chosen = relu if is_first else exp
        rewriter.replace(chosen, chosen.operand("self"))


def test_a_pass_that_keeps_its_promises_is_accepted():
    result = assert_effect(Located(), small_graph(), [X])
    assert result.changed
    assert result.records[0].drift[0].error == 0


def test_a_pass_that_changes_nothing_is_rejected_unless_it_may():
    with pytest.raises(AssertionError, match="changed nothing"):
        assert_effect(Silent(), small_graph(), [X])
    assert not assert_effect(Silent(), small_graph(), [X], changes=False).changed


def test_a_pass_that_moves_the_outputs_is_rejected():
    with pytest.raises(AssertionError, match="but moved output 0 by ") as caught:
        assert_effect(NegAway(), small_graph(), [X])
    assert "graph @main {" in str(caught.value)  # the graph that the pass made


def test_a_pass_that_loses_locations_is_rejected():
    with pytest.raises(AssertionError, match="made nodes without a location"):
        assert_effect(Located(keeps_location=False), small_graph(), [X])


def test_locations_are_not_asked_for_where_there_were_none():
    graph = small_graph()
    graph.node("relu").location = UNKNOWN
    assert assert_effect(Located(keeps_location=False), graph, [X]).changed


def test_a_pass_that_never_settles_is_rejected():
    with pytest.raises(AssertionError, match="is not idempotent"):
        assert_idempotent(Located(), small_graph())
    assert_idempotent(Silent(), small_graph())


@pytest.mark.parametrize("reads", ["names", "orders"])
def test_a_pass_that_depends_on_names_or_order_is_rejected(reads):
    found = []
    for seed in range(8):
        try:
            assert_independent(Pipeline(SwapsByName(reads)), small_graph(), [X], effect=CLOSE(), seed=seed)
        except AssertionError as error:
            found.append(str(error))
    assert found
    assert all(f"depend on the {reads} of nodes" in message for message in found)


def test_renamed_and_reordered_graphs_are_the_same_computation():
    import random

    graph = small_graph()
    expected = run(graph, [X])[0]
    orders, names = set(), set()
    for seed in range(8):
        other, more = reordered(graph, random.Random(seed)), renamed(graph, random.Random(seed))
        assert torch.equal(run(other, [X])[0], expected)
        assert torch.equal(run(more, [X])[0], expected)
        orders.add(tuple(op_names(other)))
        names.add(tuple(node.name for node in more.nodes))
    assert orders == {("neg", "relu", "exp", "sub"), ("neg", "exp", "relu", "sub")}
    assert len(names) > 1
    assert op_names(graph) == ["neg", "relu", "exp", "sub"]

"""The graph: use lists, names, iteration while it is edited, and copies."""

from __future__ import annotations

import copy

import pytest
import torch

from graphpress.ir import verify
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, GraphError, Node, Output, Signature, all_constants, bodies, nested_graphs
from graphpress.ir.ops import lookup_op
from graphpress.ir.types import ScalarType, Symbol
from graphpress.passes.framework.testing import ElementType, GraphBuilder, f32, i64


def diamond():
    """x -> neg -> (relu, exp) -> add -> out; the neg is read twice."""
    build = GraphBuilder()
    negated = build.aten.neg(build.input())
    return build.outputs(build.aten.add.Tensor(build.aten.relu(negated), build.aten.exp(negated)))


def names(graph):
    return [node.name for node in graph.nodes]


# values and uses


def test_a_value_knows_each_place_that_reads_it():
    build = GraphBuilder()
    x = build.input()
    graph = build.outputs(build.aten.cat([x, x]), build.aten.mul.Tensor(x, x), x)
    assert [(use.operand, use.index) for use in x.uses] == [
        ("tensors", 0),
        ("tensors", 1),
        ("self", None),
        ("other", None),
        ("value", None),
    ]
    assert x.use_count == 5
    assert x.users == [graph.node("cat"), graph.node("mul")]
    assert isinstance(x.uses[-1].user, Output)
    assert x.is_output
    assert not build.aten.neg(x).is_output
    assert x.node is None
    assert x.constant is None


def test_values_say_what_they_are():
    build = GraphBuilder()
    weight = build.constant("weight", torch.ones(2, 4))
    tokens, number = build.input("tokens", i64[3]), build.input("n", ScalarType("int"))
    split = build.node("aten.split.Tensor", build.aten.neg(weight), 1)
    assert weight.constant is build.graph.constants["weight"]
    assert (weight.is_floating, tokens.is_floating, number.is_floating) == (True, False, False)
    assert weight.tensor_type == f32[2, 4]
    with pytest.raises(GraphError, match="n is int, not a tensor"):
        number.tensor_type  # noqa: B018
    assert [result.name for result in split.results] == ["split#0", "split#1"]
    assert split.operand("self").name == "neg"
    assert [repr(weight), repr(weight.producer)] == ["<weight: f32[2, 4]>", "<constant weight: f32[2, 4]>"]
    assert [repr(split), repr(tokens.producer)] == ["<split = aten.split.Tensor>", "<input tokens>"]
    assert repr(build.graph) == "<graph main: 2 nodes>"


def test_a_node_answers_for_its_operands_and_attributes():
    build = GraphBuilder()
    x = build.input()
    add, cat = build.node("aten.add.Tensor", x, 2.0, alpha=3), build.node("aten.cat", [x, x])
    assert add.operand("self") is x
    assert add.operand("other") is None
    assert cat.operand("tensors") is None
    assert (add.attribute("alpha"), add.attribute("other"), cat.attribute("dim")) == (3, 2.0, 0)
    assert list(cat.operand_values()) == [("tensors", 0, x), ("tensors", 1, x)]
    assert add.annotation(int) is None


def test_a_node_is_dead_when_nothing_reads_it_and_it_does_nothing():
    build = GraphBuilder()
    x = build.input()
    read, unread = build.aten.neg(x), build.aten.exp(x)
    build.aten.relu(read)
    assert not read.node.is_dead
    assert unread.node.is_dead
    assert not build.node("aten.add_.Tensor", x, 1.0).is_dead


def test_constants_know_whether_training_and_the_model_change_them():
    build = GraphBuilder()
    trained = build.constant("a", torch.ones(2))
    codes = build.constant("b", torch.ones(2, dtype=torch.int8), type=ElementType(DType.INT4)[2])
    buffer = build.constant("c", torch.ones(2), "buffer")
    frozen = build.constant("d", torch.nn.Parameter(torch.ones(2), requires_grad=False))
    learning = build.constant("e", torch.nn.Parameter(torch.ones(2)))
    waves = build.constant("f", torch.ones(2, dtype=torch.complex64))
    trainable = [value.constant.is_trainable for value in (trained, codes, buffer, frozen, learning, waves)]
    assert trainable == [True, False, False, False, True, True]
    assert [value.constant.frozen for value in (frozen, learning)] == [True, False]
    build.write(buffer, trained)
    assert [value.constant.is_mutated for value in (trained, buffer)] == [False, True]
    assert codes.constant.type == ElementType(DType.INT4)[2]


def test_a_constant_without_data_says_so():
    graph = Graph()
    known = graph.add_constant("w", None, type=f32[2], digest="abc")
    assert (known.has_data, known.digest) == (False, "abc")
    with pytest.raises(GraphError, match="constant 'w' has no data"):
        known.tensor  # noqa: B018
    with pytest.raises(GraphError, match="needs a type or a tensor"):
        graph.add_constant("v", None)


# names


def test_a_name_that_is_taken_gets_a_number():
    graph = Graph()
    assert [graph.fresh_name("relu") for _ in range(3)] == ["relu", "relu_1", "relu_2"]
    assert graph.fresh_name("relu_1") == "relu_3"
    assert graph.fresh_name("_7") == "_7"
    assert graph.fresh_name("_7") == "_7_1"
    assert graph.fresh_name("a_b") == "a_b"
    assert graph.fresh_name("a_b") == "a_b_1"


def test_constants_have_names_of_their_own():
    graph = Graph()
    first, second, third = (graph.add_constant("w", torch.ones(1)) for _ in range(3))
    literal = graph.add_constant("w", torch.ones(1), "literal")
    assert [each.name for each in (first, second, third, literal)] == ["w", "w_1", "w_2", "w_3"]
    assert (second.names, literal.names) == (("w_1",), ())
    assert graph.add_constant("tied", torch.ones(1), names=["a", "b"]).names == ("a", "b")


def test_the_name_of_an_erased_node_is_free():
    graph = diamond()
    neg = graph.node("neg")
    twin = graph.insert(neg.op, dict(neg.operands), {}, [f32[2, 4]], name="neg")
    assert twin.name == "neg_1"
    graph.erase(twin)
    assert graph.insert(neg.op, dict(neg.operands), {}, [f32[2, 4]], name="neg_1").name == "neg_1"


def test_an_unknown_node_is_an_error():
    with pytest.raises(GraphError, match="graph 'main' has no node 'tanh'"):
        diamond().node("tanh")


# the order of nodes


def test_nodes_are_kept_in_order():
    graph = diamond()
    x, neg = graph.inputs[0].value, lookup_op("aten.neg")
    graph.insert(neg, {"self": x}, {}, [f32[2, 4]], name="first", before=graph.node("neg"))
    graph.insert(neg, {"self": x}, {}, [f32[2, 4]], name="middle", before=graph.node("exp"))
    graph.insert(neg, {"self": x}, {}, [f32[2, 4]], name="last")
    order = ["first", "neg", "relu", "middle", "exp", "add", "last"]
    assert names(graph) == order
    assert [node.name for node in reversed(graph.nodes)] == order[::-1]
    assert len(graph.nodes) == 7
    assert [graph.nodes[0].name, graph.nodes[-1].name] == ["first", "last"]
    for name in ("first", "middle", "last"):
        graph.erase(graph.node(name))
    assert names(graph) == ["neg", "relu", "exp", "add"]
    assert [node.name for node in reversed(graph.nodes)] == ["add", "exp", "relu", "neg"]
    verify(graph)


def test_the_last_node_may_be_erased_and_others_be_appended():
    graph = Graph()
    neg = lookup_op("aten.neg")
    x = graph.add_input("x", f32[2]).value
    only = graph.insert(neg, {"self": x}, {}, [f32[2]])
    graph.erase(only)
    assert names(graph) == []
    assert only not in graph.nodes
    assert x.use_count == 0
    made = graph.insert(neg, {"self": x}, {}, [f32[2]])
    assert names(graph) == ["neg"]
    assert made in graph.nodes
    assert "neg" not in graph.nodes


def test_an_iteration_survives_the_erasure_of_what_it_stands_on_and_before():
    graph = Graph()
    x = graph.add_input("x", f32[2]).value
    for _ in range(4):
        graph.insert(lookup_op("aten.neg"), {"self": x}, {}, [f32[2]])
    first, second, third, fourth = graph.nodes
    visited = []
    for node in graph.nodes:
        visited.append(node)
        if node is first:
            graph.erase(first)
            graph.erase(second)
    assert visited == [first, third, fourth]
    visited.clear()
    for node in reversed(graph.nodes):
        visited.append(node)
        if node is fourth:
            graph.erase(third)
            graph.erase(fourth)
    assert visited == [fourth]


def test_a_node_is_inserted_into_its_own_graph_only():
    graph, other = diamond(), diamond()
    with pytest.raises(GraphError, match="neg is not in graph 'main'"):
        graph.insert(lookup_op("aten.neg"), {}, {}, [], before=other.node("neg"))


# editing


def test_what_is_read_cannot_be_erased():
    graph = diamond()
    with pytest.raises(GraphError, match="cannot erase neg: relu still reads it"):
        graph.erase(graph.node("neg"))
    weight = graph.add_constant("w", torch.ones(1))
    graph.add_output(weight.value)
    with pytest.raises(GraphError, match="cannot erase constant 'w': it is still read"):
        graph.erase_constant(weight)
    graph.set_output(graph.outputs[1], None)
    graph.erase_constant(weight)
    assert graph.constants == {}


def test_operands_are_replaced_with_their_uses():
    build = GraphBuilder()
    x, y = build.input("x"), build.input("y")
    cat = build.node("aten.cat", [x, x])
    graph = build.outputs(cat.result)
    graph.set_operand(cat, "tensors", [y, x])
    assert cat.operands["tensors"] == (y, x)
    assert [(use.operand, use.index) for use in (*y.uses, *x.uses)] == [("tensors", 0), ("tensors", 1)]
    graph.set_operand(cat, "tensors", None)
    assert cat.operands == {}
    assert (x.uses, y.uses) == ((), ())


def test_uses_move_all_or_those_that_are_wanted_but_not_what_is_written_to():
    build = GraphBuilder()
    state, x = build.constant("state", torch.zeros(2, 4), "buffer"), build.input()
    cat = build.node("aten.cat", [state, state])
    neg = build.node("aten.neg", state)
    build.write(state, x)
    graph = build.outputs(state, cat.result, neg.result)
    moved = graph.replace_uses(state, x, where=lambda use: use.user is cat and use.index == 1)
    assert moved == 1
    assert (cat, "tensors", 1) in x.uses
    assert cat.operands["tensors"] == (state, x)
    assert graph.replace_uses(state, x) == 3
    assert cat.operands["tensors"] == (x, x)
    assert neg.operand("self") is x
    assert graph.user_outputs()[0].value is x
    assert graph.outputs[0].target is state
    assert [use.operand for use in state.uses] == ["target"]


def test_values_are_inputs_constants_and_results():
    build = GraphBuilder()
    x, weight = build.input(), build.constant("w", torch.ones(4))
    build.graph.add_input("flag", literal=True)
    split = build.node("aten.split.Tensor", build.aten.mul.Tensor(x, weight), 1)
    assert list(build.graph.values()) == [x, weight, split.operand("self"), *split.results]


def test_only_what_the_model_returns_is_a_user_output():
    build = GraphBuilder()
    state = build.constant("state", torch.zeros(2, 4), "buffer")
    build.write(state, build.input())
    graph = build.outputs(state)
    assert [output.name for output in graph.outputs] == ["buffer_mutation output", "user output"]
    assert graph.user_outputs() == [graph.outputs[1]]


# graphs in graphs, and copies


def nested():
    inner, deepest = diamond(), diamond()
    inner.name, deepest.name = "inner", "deepest"
    build = GraphBuilder(deepest)
    deepest.add_output(build.constant("w", torch.ones(1)))
    inner.node("neg").attributes["body"] = {"key": [(deepest, 1)]}
    graph = diamond()
    graph.node("exp").attributes["body"] = (1, inner)
    return graph


def test_graphs_in_attributes_are_found_at_any_depth():
    graph = nested()
    assert [inner.name for inner in nested_graphs(graph)] == ["main", "inner", "deepest"]
    assert [inner.name for inner in bodies(graph.node("exp"))] == ["inner"]
    assert [constant.name for constant in all_constants(graph)] == ["w"]


def test_a_copy_is_equal_and_shares_tensors_alone():
    build = GraphBuilder(nested())
    graph = build.graph
    graph.symbols["s0"] = Symbol(1, None, 4)
    graph.signature = Signature(("x",), "in", "out")
    graph.add_input("flag", literal=3)
    state = build.constant("state", torch.zeros(2, 4), "buffer")
    build.write(state, graph.node("exp").result)
    graph.add_output(None, literal="text")
    other = graph.clone()
    assert other == graph
    assert [id(node) for node in other.nodes] != [id(node) for node in graph.nodes]
    assert other.constants["state"].tensor is state.constant.tensor
    assert other.signature == graph.signature
    assert other.signature is not graph.signature
    inner = other.node("exp").attributes["body"][1]
    assert inner == graph.node("exp").attributes["body"][1]
    assert inner is not graph.node("exp").attributes["body"][1]
    deepest = inner.node("neg").attributes["body"]["key"][0][0]
    deepest.name = "changed"
    other.node("neg").annotations[int] = 1
    other.symbols.clear()
    assert [each.name for each in nested_graphs(graph)] == ["main", "inner", "deepest"]
    assert graph.node("neg").annotations == {}
    assert graph.symbols == {"s0": Symbol(1, None, 4)}


def test_deep_copies_have_tensors_of_their_own():
    build = GraphBuilder()
    graph = build.outputs(build.aten.mul.Tensor(build.input(), build.constant("w", torch.ones(4))))
    other = copy.deepcopy(graph)
    assert other == graph
    other.constants["w"].tensor.zero_()
    assert graph.constants["w"].tensor.tolist() == [1, 1, 1, 1]


def test_graphs_are_compared_by_structure_and_not_hashed():
    assert diamond() == diamond()
    assert diamond() != "diamond"
    other = diamond()
    other.name = "other"
    assert diamond() != other
    with pytest.raises(TypeError):
        hash(diamond())
    assert str(diamond()).startswith("graph @main {")


def test_a_node_has_one_result_or_is_asked_for_all():
    build = GraphBuilder()
    split = build.node("aten.split.Tensor", build.input(), 1)
    assert isinstance(split, Node)
    with pytest.raises(GraphError, match=r"split \(aten.split.Tensor\) has 2 results, not one"):
        split.result  # noqa: B018

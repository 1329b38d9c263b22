"""Graphs are aligned by what nodes compute and where, and what differs is named."""

from __future__ import annotations

import random

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphpress.ir.diff import diff_graphs
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.testing import GraphBuilder, f32
from tests.ir.strategies import graphs

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def scrambled(graph: Graph, seed: int) -> Graph:
    """The same graph with other names, another order of nodes, and no locations."""
    chance = random.Random(seed)
    copy = Graph(graph.name, symbols=dict(graph.symbols), signature=graph.signature)
    values: dict[int, Value] = {}
    for graph_input in graph.inputs:
        type = None if graph_input.value is None else graph_input.value.type
        made = copy.add_input(f"in{len(copy.inputs)}", type, graph_input.literal)
        if graph_input.value is not None and made.value is not None:
            values[id(graph_input.value)] = made.value
    for constant in chance.sample(list(graph.constants.values()), len(graph.constants)):
        new = copy.add_constant(f"c{len(copy.constants)}", constant.tensor.clone(), constant.kind, type=constant.type)
        values[id(constant.value)] = new.value
    waiting = list(graph.nodes)
    while waiting:
        ready = [n for n in waiting if all(id(v) in values for _, _, v in n.operand_values())]
        node = chance.choice(ready)
        waiting.remove(node)
        operands = {name: moved(operand, values) for name, operand in node.operands.items()}
        types = [result.type for result in node.results]
        new_node = copy.insert(node.op, operands, node.attributes, types, name=f"n{chance.randrange(10**9)}")
        values |= {id(old): new for old, new in zip(node.results, new_node.results, strict=True)}
    for output in graph.outputs:
        target = None if output.target is None else values[id(output.target)]
        copy.add_output(None if output.value is None else values[id(output.value)], output.kind, output.literal, target)
    return copy


def moved(operand, values):
    if isinstance(operand, tuple):
        return tuple(moved(item, values) for item in operand)
    return values[id(operand)] if isinstance(operand, Value) else operand


def names(nodes: tuple[Node, ...]) -> list[str]:
    return [node.name for node in nodes]


def changes(difference) -> dict[str, list[str]]:
    return {change.after.name: [each.what for each in change.differences] for change in difference.changed}


@QUICK
@given(graphs(), st.integers(0, 5))
def test_names_order_and_locations_are_no_difference(graph, seed):
    difference = diff_graphs(graph, scrambled(graph, seed))
    assert difference.is_empty
    assert difference.constants == (0, 0)
    assert len(difference.alignment.pairs) == len(graph.nodes)


@QUICK
@given(graphs(), st.data())
def test_a_node_put_into_an_edge_is_all_that_was_added(graph, data):
    candidates = [n for n in graph.nodes if len(n.results) == 1 and n.results[0].users and is_float(n.results[0])]
    if not candidates:
        return
    other = graph.clone()
    name = data.draw(st.sampled_from(candidates)).name
    before = other.node(name)
    users = {user.name for user in before.result.users}
    rewriter = Rewriter(other)
    new = rewriter.insert_after(before, "aten.trunc", {"self": before.result}, name="new")
    rewriter.replace_uses(
        before.result, new.result, where=lambda use: isinstance(use.user, Node) and use.user is not new
    )
    difference = diff_graphs(graph, other)
    assert difference.removed == ()
    assert names(difference.added) == ["new"]
    assert set(changes(difference)) == users


def is_float(value: Value) -> bool:
    return value.tensor_type.dtype.is_floating


def chain(weights: list[float], scale: float = 1.0) -> Graph:
    """One ``x * w + x`` per weight."""
    builder = GraphBuilder()
    value = builder.input()
    for place, weight in enumerate(weights):
        product = builder.aten.mul.Tensor(value, builder.constant(f"w{place}", torch.full((2, 4), weight)))
        value = builder.aten.add.Tensor(product, value, alpha=scale if place == 1 else 1.0)
    return builder.outputs(value)


def test_a_changed_weight_is_named_with_its_hashes():
    difference = diff_graphs(chain([1.0, 2.0, 3.0]), chain([1.0, 2.5, 3.0]))
    assert (difference.removed, difference.added) == ((), ())
    (change,) = difference.changed
    (found,) = change.differences
    assert found.what == "other"
    assert found.before.startswith("@w1 (f32[2, 4], sha256 ")
    assert found.before != found.after
    assert difference.constants == (1, 1)


def test_all_weights_changed_still_align_node_by_node():
    difference = diff_graphs(chain([1.0, 2.0, 3.0]), chain([4.0, 5.0, 6.0]))
    assert (difference.removed, difference.added) == ((), ())
    assert changes(difference) == {"mul": ["other"], "mul_1": ["other"], "mul_2": ["other"]}


def test_a_changed_attribute_is_named_with_both_values():
    difference = diff_graphs(chain([1.0, 2.0]), chain([1.0, 2.0], scale=3.0))
    (change,) = difference.changed
    assert [str(each) for each in change.differences] == ["alpha: 1.0 -> 3.0"]


def test_swapped_operands_differ():
    def graph(swap: bool) -> Graph:
        builder = GraphBuilder()
        x, y = builder.input("x"), builder.input("y")
        return builder.outputs(builder.aten.sub.Tensor(*((y, x) if swap else (x, y))))

    assert changes(diff_graphs(graph(False), graph(True))) == {"sub": ["self", "other"]}


def test_a_node_on_every_edge_leaves_the_others_aligned():
    def graph(quantized: bool) -> Graph:
        builder = GraphBuilder()
        value = builder.input()
        for _ in range(5):
            for op in ("aten.relu", "aten.neg"):
                value = builder.op(op, value)
                if quantized:
                    value = builder.aten.abs(value)
        return builder.outputs(value)

    difference = diff_graphs(graph(False), graph(True))
    assert difference.removed == ()
    assert {node.op.short_name for node in difference.added} == {"abs"}
    assert len(difference.added) == 10
    assert not difference.renamed


def test_names_that_shifted_do_not_mislead():
    def graph(extra: bool) -> Graph:
        builder = GraphBuilder()
        value = builder.input()
        if extra:
            value = builder.aten.relu(builder.aten.neg(value))
        for place in range(3):
            value = builder.aten.relu(value)
            weight = builder.constant(f"w{place}", torch.full((2, 4), 1.0 + place))
            value = builder.aten.mul.Tensor(value, weight)
        return builder.outputs(value)

    difference = diff_graphs(graph(False), graph(True))
    assert difference.removed == ()
    assert names(difference.added) == ["neg", "relu"]
    assert difference.renamed == {"relu": "relu_1", "relu_1": "relu_2", "relu_2": "relu_3"}


def test_one_of_two_twins_removed_is_one_removal():
    builder = GraphBuilder()
    x = builder.input()
    twins = [builder.aten.relu(x) for _ in range(2)]
    graph = builder.outputs(builder.aten.add.Tensor(*twins))
    other = graph.clone()
    add = other.node("add")
    rewriter = Rewriter(other)
    rewriter.set_operand(add, "other", add.operand("self"))
    rewriter.erase(other.node("relu_1"))
    difference = diff_graphs(graph, other)
    assert names(difference.removed) == ["relu_1"]
    assert changes(difference) == {"add": ["other"]}


def test_inputs_outputs_and_results_are_compared():
    def graph(shape: tuple[int, ...], outputs: int) -> Graph:
        builder = GraphBuilder()
        value = builder.aten.relu(builder.input("x", f32[shape]))
        return builder.outputs(*[value] * outputs)

    difference = diff_graphs(graph((2, 4), 1), graph((3, 4), 2))
    assert [str(each) for each in difference.others] == [
        "number of outputs: 1 -> 2",
        "input 0: type(f32[2, 4]) -> type(f32[3, 4])",
    ]
    assert changes(difference) == {"relu": ["type"]}
    assert not difference.is_empty


def test_another_value_returned_is_a_difference():
    def graph(first: bool) -> Graph:
        builder = GraphBuilder()
        one = builder.aten.relu(builder.input())
        two = builder.aten.neg(one)
        return builder.outputs(one if first else two, two)

    difference = diff_graphs(graph(True), graph(False))
    assert [each.what for each in difference.others] == ["output 0"]
    assert not difference.changed

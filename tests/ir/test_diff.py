"""Graphs are aligned by what nodes compute and where, and what differs is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphpress.ir.annotations import annotation
from graphpress.ir.diff import diff_graphs
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import Symbol
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
    assert str(difference.changed[0].differences[0]) == "type: f32[2, 4] -> f32[3, 4]"
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


@annotation("diff-test.note")
@frozen
class Note:
    node: str
    parts: tuple[object, ...] = ()
    by_name: dict[str, object] = field(factory=dict)
    ignored: int = field(default=0, eq=False)


def annotated(name: str, note: Note) -> Graph:
    builder = GraphBuilder()
    first = builder.node("aten.relu", builder.input(), name=name)
    return builder.outputs(builder.node("aten.neg", first.result, annotations=[note]).result)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Note("old"), Note("new"), True),  # the node it names is called so in the other graph
        (Note("old"), Note("old"), True),
        (Note("old"), Note("neg"), False),
        (Note("new"), Note("old"), False),
        (Note("", ("old", 1)), Note("", ("new", 1)), True),
        (Note("", ("old", 1)), Note("", ("new", 2)), False),
        (Note("", (1,)), Note("", (1, 2)), False),
        (Note("", (1,)), Note("", (1.0,)), False),
        (Note("", (Note("old"),)), Note("", (Note("new"),)), True),
        (Note("", (Note("old"),)), Note("", (Note("neg"),)), False),
        (Note("", by_name={"a": "old"}), Note("", by_name={"a": "new"}), True),
        (Note("", by_name={"a": 1}), Note("", by_name={"b": 1}), False),
        (Note("", by_name={"a": 1}), Note("", by_name={"a": 2}), False),
        (Note("", ignored=1), Note("", ignored=2), True),
    ],
    ids=str,
)
def test_annotations_are_compared_with_the_names_that_nodes_have_now(one: Note, other: Note, same: bool) -> None:
    difference = diff_graphs(annotated("old", one), annotated("new", other))
    assert changes(difference) == ({} if same else {"neg": ["[diff-test.note]"]})
    assert difference.renamed == {"old": "new"}


def test_an_annotation_on_one_side_is_added_or_removed():
    one, other = annotated("relu", Note("a")), annotated("relu", Note("a"))
    other.node("neg").annotations.clear()
    assert "[diff-test.note]: removed, was " in str(diff_graphs(one, other).changed[0].differences[0])
    assert "[diff-test.note]: added, " in str(diff_graphs(other, one).changed[0].differences[0])


def test_outputs_are_compared_by_kind_value_literal_and_target():
    def graph(**output: Any) -> Graph:
        builder = GraphBuilder()
        states = [
            builder.constant(name, torch.full((2, 4), value), "buffer") for name, value in (("a", 1.0), ("b", 2.0))
        ]
        result = builder.aten.mul.Tensor(builder.aten.mul.Tensor(builder.input(), states[0]), states[1])
        kept = builder.outputs(result)
        target = output.pop("target", None)
        kept.add_output(
            result if output.pop("returns", False) else None,
            target=None if target is None else states[target],
            **output,
        )
        return kept

    outputs = [
        {"returns": True},
        {"literal": None},
        {"literal": 1},
        {"literal": 1.0},
        {"literal": True},
        {"returns": True, "kind": "buffer_mutation", "target": 0},
        {"returns": True, "kind": "buffer_mutation", "target": 1},
    ]
    for place, one in enumerate(outputs):
        for other_place, other in enumerate(outputs):
            found = [each.what for each in diff_graphs(graph(**one), graph(**other)).others]
            assert found == ([] if place == other_place else ["output 1"]), (one, other)


def test_inputs_symbols_signatures_and_constants_are_compared():
    def graph(edit: Callable[[GraphBuilder], object]) -> Graph:
        builder = GraphBuilder()
        value = builder.aten.mul.Tensor(builder.input(), builder.constant("w", torch.ones(4)))
        edit(builder)
        return builder.outputs(value)

    plain = graph(lambda builder: None)
    symbolic = graph(lambda builder: builder.graph.symbols.update(s0=Symbol(1, None, 2)))
    one, true = (graph(lambda builder, v=v: builder.graph.add_input("flag", literal=v)) for v in (1, True))
    assert [each.what for each in diff_graphs(plain, symbolic).others] == ["symbols"]
    assert [str(each) for each in diff_graphs(one, true).others] == ["input 1: 1 -> true"]
    assert [each.what for each in diff_graphs(plain, one).others] == ["number of inputs"]
    assert diff_graphs(plain, plain.clone()).is_empty
    other = plain.clone()
    other.constants["w"]._tensor = torch.zeros(4)
    other.add_constant("v", torch.zeros(4))
    assert diff_graphs(plain, other).constants == (1, 2)

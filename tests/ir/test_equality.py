"""What makes two graphs differ, and what does not."""

from __future__ import annotations

import math

import pytest
import torch
from attrs import field, frozen

from graphpress.ir import difference
from graphpress.ir.annotations import annotation
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Signature
from graphpress.ir.location import UNKNOWN
from graphpress.ir.types import Symbol
from graphpress.passes.framework.testing import GraphBuilder, f32


@annotation("equality-test.note")
@frozen
class Note:
    value: object
    ignored: int = field(default=0, eq=False)


def graph():
    build = GraphBuilder()
    x = build.input()
    state = build.constant("state", torch.zeros(2, 4), "buffer")
    total = build.aten.add.Tensor(x, build.constant("w", torch.ones(4)), alpha=2)
    joined = build.aten.cat([total, x])
    build.write(state, total)
    return build.outputs(joined)


def with_value(value):
    made = graph()
    made.node("add").annotations[Note] = Note(value)
    return made


def edited(edit):
    other = graph()
    edit(other)
    return other


def erase_last(g):
    g.set_output(g.outputs[1], g.node("add").result)
    g.erase(g.node("cat"))


EDITS = {
    "the graph's name": (
        lambda g: setattr(g, "name", "other"),
        "the graph's name is 'main' in the first graph, 'other' in the second",
    ),
    "a symbol": (lambda g: g.symbols.update(s0=Symbol(1, None, 2)), "only the second graph has symbol 's0'"),
    "the name of an input": (lambda g: setattr(g.inputs[0], "name", "y"), "the names of the inputs is ['x']"),
    "the type of an input": (
        lambda g: setattr(g.inputs[0].value, "type", f32[2, 5]),
        "the type of input x is f32[2, 4] in the first graph, f32[2, 5] in the second",
    ),
    "the literal of an input": (lambda g: setattr(g.inputs[0], "literal", 3), "the literal of input x is None"),
    "an input more": (lambda g: g.add_input("y", f32[1]), "the names of the inputs"),
    "a constant less": (
        lambda g: g.constants.pop("w"),
        "only the first graph has constant 'w'",
    ),
    "the kind of a constant": (
        lambda g: setattr(g.constants["w"], "kind", "buffer"),
        "'kind' of constant w is 'parameter' in the first graph, 'buffer' in the second",
    ),
    "the names of a constant": (lambda g: setattr(g.constants["w"], "names", ("v",)), "'names' of constant w"),
    "persistence": (lambda g: setattr(g.constants["w"], "persistent", False), "'persistent' of constant w is True"),
    "frozenness": (lambda g: setattr(g.constants["w"], "frozen", True), "'frozen' of constant w is False"),
    "data": (lambda g: g.constants["w"].tensor.mul_(2), "the data of constant w"),
    "the sign of a zero": (lambda g: g.constants["state"].tensor.neg_(), "the data of constant state"),
    "the type of a constant": (
        lambda g: setattr(g.constants["w"].value, "type", f32[4, 1]),
        "the type of constant w is f32[4] in the first graph, f32[4, 1] in the second",
    ),
    "a node's name": (
        lambda g: setattr(g.node("add"), "name", "sum"),
        "node 0 is 'add = aten.add.Tensor' in the first graph, 'sum = aten.add.Tensor' in the second",
    ),
    "an op": (
        lambda g: setattr(g.node("add"), "op", g.node("cat").op),
        "node 0 is 'add = aten.add.Tensor' in the first graph, 'add = aten.cat' in the second",
    ),
    "a node less": (erase_last, "only the first graph has node 1, cat = aten.cat"),
    "a result's type": (
        lambda g: setattr(g.node("add").result, "type", f32[8]),
        "the types of node 0 (add) is [f32[2, 4]] in the first graph, [f32[8]] in the second",
    ),
    "the number of results": (lambda g: setattr(g.node("cat"), "results", ()), "the types of node 1 (cat)"),
    "an operand": (
        lambda g: g.set_operand(g.node("add"), "other", g.inputs[0].value),
        "operand of node 0 (add), other, is w in the first graph, x in the second",
    ),
    "an operand in a list": (
        lambda g: g.set_operand(g.node("cat"), "tensors", [g.inputs[0].value] * 2),
        "operand of node 1 (cat), tensors, is [add, x] in the first graph, [x, x] in the second",
    ),
    "an operand less": (
        lambda g: g.set_operand(g.node("add"), "other", None),
        "only the first graph has operand of node 0 (add) 'other'",
    ),
    "an attribute": (
        lambda g: g.node("add").attributes.update(alpha=2.0),
        "attribute of node 0 (add), alpha, is 2 in the first graph, 2.0 in the second",
    ),
    "an annotation": (
        lambda g: g.node("add").annotations.update({Note: Note(1)}),
        "only the second graph has annotation of node 0 (add) 'Note'",
    ),
    "a location": (lambda g: setattr(g.node("cat"), "location", UNKNOWN), "the location of node 1 (cat) is block.cat"),
    "an output more": (lambda g: g.add_output(None), "the first graph has 2 outputs, the second 3"),
    "the kind of an output": (lambda g: setattr(g.outputs[1], "kind", "other"), "'kind' of output 1 is 'user'"),
    "the value of an output": (
        lambda g: g.set_output(g.outputs[1], g.node("add").result),
        "'value' of output 1 is cat in the first graph, add in the second",
    ),
    "a literal that is returned": (lambda g: setattr(g.outputs[1], "literal", 1), "'literal' of output 1 is None"),
    "what is written to": (lambda g: setattr(g.outputs[0], "target", None), "'target' of output 0 is state"),
    "the signature": (lambda g: setattr(g, "signature", Signature(("x",), "a", "b")), "the signature is None"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_difference_is_found_and_said(what):
    edit, message = EDITS[what]
    other = edited(edit)
    found = difference(graph(), other)
    assert found is not None
    assert message in found
    assert difference(other, graph()) is not None
    assert difference(other, edited(edit)) is None


def test_equal_graphs_have_no_difference():
    one = graph()
    assert difference(one, one) is None
    assert difference(one, graph()) is None
    assert difference(one, one.clone()) is None


SAME = [
    (math.nan, -math.nan),
    (complex(math.nan, 1), complex(math.nan, 1)),
    ((1, 2), [1, 2]),
    ({"a": 1, "b": [2]}, {"b": (2,), "a": 1}),
    (Note(1, ignored=1), Note(1, ignored=2)),
    (torch.float32, torch.float32),
    (DType.INT4, DType.INT4),
    (f32[2], f32[2]),
    ("text", "text"),
]
DIFFERENT = [
    (0.0, -0.0),
    (1, 1.0),
    (1, True),
    (0, False),
    (1.0, 1.0 + 2**-52),
    (complex(0.0, 1), complex(-0.0, 1)),
    (complex(1, 0.0), complex(1, -0.0)),
    ((1, 2), (1, 2, 3)),
    ((1, 2), (2, 1)),
    ((1,), 1),
    (1, (1,)),
    ({"a": 1}, {"a": 1, "b": 1}),
    ({"a": 1}, {"b": 1}),
    ({"a": 1}, {"a": 1.0}),
    (Note(1), Note(1.0)),
    (Note([0.0]), Note([-0.0])),
    (torch.float32, torch.float16),
    (DType.INT4, DType.UINT4),
    (f32[2], f32[2, 1]),
    ("text", "texts"),
    (None, 0),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=str)
def test_values_that_mean_the_same_are_the_same(one, other):
    assert difference(with_value(one), with_value(other)) is None


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=str)
def test_values_that_python_calls_equal_may_differ(one, other):
    assert "annotation of node 0 (add), Note," in difference(with_value(one), with_value(other))
    assert difference(with_value(other), with_value(one)) is not None


def test_a_difference_in_a_graph_inside_is_told_from_the_inside():
    one, other = graph(), graph()
    one.node("cat").attributes["body"] = graph()
    other.node("cat").attributes["body"] = edited(EDITS["the graph's name"][0])
    assert difference(one, other) == (
        "inside attribute of node 1 (cat), body,: the graph's name is 'main' in the first graph, 'other' in the second"
    )
    other.node("cat").attributes["body"] = graph()
    assert difference(one, other) is None
    one.node("cat").attributes["body"] = [graph()]
    other.node("cat").attributes["body"] = [edited(EDITS["data"][0])]
    assert difference(one, other) is not None


def test_long_values_are_shown_in_part():
    found = difference(with_value("a" * 300), with_value(tuple(range(30))))
    assert "..." in found
    assert len(found) < 600

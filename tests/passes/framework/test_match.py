"""What a match and a miss say about the graph."""

from __future__ import annotations

import pytest
import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.location import Location
from graphpress.ir.types import ScalarType
from graphpress.passes.framework import Match, Miss, PatternError
from graphpress.passes.framework.match import constant_complaint, readers, show, type_complaint
from graphpress.passes.framework.patterns import Any, Constant
from graphpress.passes.framework.testing import GraphBuilder, f32


@pytest.fixture
def build():
    return GraphBuilder()


@pytest.fixture
def match(build):
    """A sum of a relu and a weight; a list, a number and something absent are captured too."""
    x, weight = build.input(), build.constant("weight", torch.ones(4))
    relu = build.node("aten.relu", x)
    add = build.node("aten.add.Tensor", relu.result, weight)
    captures = {"relu": relu, "sum": add.result, "x": x, "weight": weight, "all": (x,), "alpha": 1, "bias": None}
    return Match(add, (relu, add), captures, {"relu": ((None, "add"), "self")})


def test_captures_are_asked_for_as_what_they_are(match):
    relu, add = match.nodes
    assert (match["relu"], match["alpha"], match["bias"]) == (relu, 1, None)
    assert (match.node("relu"), match.value("relu"), match.value("sum")) == (relu, relu.result, add.result)
    assert match.constant("weight") is match["weight"].constant
    assert ("relu" in match, "bias" in match, "other" in match) == (True, False, False)
    assert match.location == Location.union([relu.location, add.location])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m["weigth"], "the pattern has no capture 'weigth'; did you mean 'weight'"),
        (lambda m: m.value("alpha"), "'alpha' captured 1, not a Value"),
        (lambda m: m.node("x"), r"'x' captured <x: f32\[2, 4\]>, not a Node"),
        (lambda m: m.value("bias"), "'bias' captured None, not a Value"),
        (lambda m: m.constant("x"), "the capture 'x' is not a constant"),
    ],
)
def test_captures_of_another_kind_are_an_error(match, ask, message):
    with pytest.raises(PatternError, match=message):
        ask(match)


def test_a_check_that_says_no_is_about_a_node(match):
    relu, add = match.nodes
    about = {at: match.miss("this", "that", at=at) for at in ("relu", "sum", "x", "alpha", "bias", None)}
    assert {at: miss.node for at, miss in about.items()} == {
        "relu": relu,
        "sum": add,
        "x": add,  # an input has no node: the root stands for it
        "alpha": add,
        "bias": add,
        None: add,
    }
    assert [about[at].path for at in ("relu", "x", None)] == [("add", "self"), ("x",), ("add",)]
    assert about["relu"].progress == (3, 0)


def test_a_miss_is_a_sentence_that_is_made_when_it_is_read(match):
    made = []
    miss = Miss(("add", "self"), lambda: made.append(1) or "a conv", "a relu", match.nodes[0])
    assert made == []
    assert (
        str(miss) == "add.self: expected a conv, found a relu\n  at relu (aten.relu), block.relu (Relu) at model.py:11"
    )
    assert str(Miss(("add",), "a", "b")) == "add: expected a, found b"
    assert (miss.expected, miss.found) == ("a conv", "a relu")


def test_what_was_found_is_shown_for_people(match):
    relu, add = match.nodes
    shown = [show(each) for each in (relu, add.result, match["x"], match["weight"], match["all"], 1.5, None)]
    assert shown == [
        "relu (aten.relu)",
        "add: f32[2, 4] = aten.add.Tensor",
        "input x: f32[2, 4]",
        "constant weight: f32[4]",
        "[input x: f32[2, 4]]",
        "1.5",
        "None",
    ]


def test_readers_outside_a_match_are_named_once(build):
    x = build.input()
    one, two = build.node("aten.relu", x), build.node("aten.neg", x)
    graph = build.outputs(x)
    assert readers(x, [one, two, one, graph.outputs[0]]) == "x read by relu, neg, the graph's output too"


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        (Any(), None),
        (Any(dtype=DType.FLOAT32), None),
        (Any(dtype=DType.INT8), "elements of type i8"),
        (Any(dtype=(DType.INT8, DType.UINT8)), "elements of type i8 or u8"),
        (Any(rank=2), None),
        (Any(rank=3), "3 axes"),
        (Any(shape=(2, None)), None),
        (Any(shape=(3, None)), "shape [3, any]"),
        (Any(shape=(2, 4, 1)), "shape [2, 4, 1]"),
        (Any(shape=(2,)), "shape [2]"),
    ],
)
def test_what_is_asked_of_a_type(pattern, complaint):
    assert type_complaint(pattern, f32[2, 4]) == complaint


def test_a_number_is_no_tensor():
    assert type_complaint(Any(), ScalarType("int")) is None
    assert type_complaint(Any(rank=0), ScalarType("int")) == "a tensor"


def test_what_is_asked_of_a_constant(build):
    filled, mixed = build.constant("filled", torch.full((3,), 2.0)), build.constant("mixed", torch.tensor([2.0, 3.0]))
    empty = build.constant("empty", torch.ones(0))
    unknown = build.graph.add_constant("unknown", None, type=f32[2]).value
    assert constant_complaint(Constant(), filled) is None
    assert constant_complaint(Constant(value=2.0), filled) is None
    for value in (mixed, empty):
        assert constant_complaint(Constant(value=2.0), value) == "a constant filled with 2.0"
    assert constant_complaint(Constant(), build.input()) == "a constant"
    assert constant_complaint(Constant(), 2.0) == "a constant"
    assert constant_complaint(Constant(), unknown) == "a constant whose data is known"

from __future__ import annotations

import pytest
import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.ops import Trait
from graphpress.passes.framework import Match, Miss, PatternError
from graphpress.passes.framework.matcher import match_pattern
from graphpress.passes.framework.patterns import Any, Attr, Constant, Each, OneOf, Op, Optional
from graphpress.passes.framework.testing import GraphBuilder, f32

RELU = "aten.relu"


@pytest.fixture
def b():
    return GraphBuilder()


def matched(pattern, value):
    found = match_pattern(pattern, value.node)
    assert isinstance(found, Match), found
    return found


def missed(pattern, value):
    found = match_pattern(pattern, value.node)
    assert isinstance(found, Miss), found
    return found


def conv(b, x, bias=True, op="aten.conv2d", **attributes):
    weight = b.constant("w", torch.ones(4, 3, 3, 3))
    bias = b.constant("b", torch.ones(4)) if bias else None
    return b.op(op, *([x, weight, bias] if bias is not None else [x, weight]), **attributes)


def test_values_nodes_constants_and_attributes_are_captured(b):
    x = b.input("x", f32[1, 3, 8, 8])
    y = b.op(RELU, conv(b, x, padding=(1, 1)))
    pattern = Op(
        RELU,
        Op(
            "aten.conv2d", input=Any("x"), weight=Constant("weight"), bias=Any("bias"), padding=Attr("pad"), name="conv"
        ),
    )
    match = matched(pattern, y)
    assert match["x"] is x
    assert match.value("x") is x
    assert match.node("conv") is y.node.operand("self").node
    assert match.value("conv") is y.node.operand("self")
    assert match.constant("weight").name == "w"
    assert match["pad"] == (1, 1)
    assert match.nodes == (match["conv"], y.node)
    assert match.location == match["conv"].location | y.node.location
    with pytest.raises(PatternError, match="has no capture 'wieght'; did you mean 'weight'"):
        match["wieght"]
    with pytest.raises(PatternError, match="not a Node"):
        match.node("x")
    with pytest.raises(PatternError, match="is not a constant"):
        match.constant("x")


def test_an_optional_operand_may_be_absent_and_an_unmentioned_one_must_be(b):
    x = b.input("x", f32[1, 3, 8, 8])
    with_bias, without = conv(b, x), conv(b, x, bias=False)
    loose = Op("aten.conv2d", Any("x"), Any("w"), Optional(Constant("b")))
    assert matched(loose, with_bias).constant("b").name == "b"
    assert matched(loose, without)["b"] is None
    assert "b" not in matched(loose, without)
    strict = Op("aten.conv2d", Any("x"), Any("w"))
    assert matched(strict, without)
    assert str(missed(strict, with_bias)).startswith("conv2d.bias: expected no such operand, found constant b: f32[4]")
    assert matched(Op("aten.conv2d", Any("x"), ...), with_bias)
    assert missed(Op("aten.conv2d", Any(), Any(), Any("b")), without).found == "None"


def test_an_op_name_covers_its_overloads(b):
    x = b.input("x", f32[1, 3, 8, 8])
    default, padding = conv(b, x), conv(b, x, op="aten.conv2d.padding", padding="same")
    assert matched(Op("aten.conv2d", ...), padding)
    assert matched(Op("aten.conv2d", ...), default)
    assert missed(Op("aten.conv2d.padding", ...), default).expected == "aten.conv2d.padding"
    assert missed(Op("aten.conv2d.default", ...), padding)
    assert matched(Op(("aten.conv1d", "aten.conv2d"), ...), default)
    relu = b.op(RELU, x)
    assert matched(Op(Trait.ACTIVATION, ...), relu)
    assert missed(Op(Trait.ACTIVATION, ...), default).expected == "an op that is ACTIVATION"


def test_attributes_are_compared_with_their_defaults_counted(b):
    x = b.input()
    one, two = b.aten.softmax.int(x, 1), b.aten.add.Tensor(x, x)
    assert matched(Op("aten.softmax", ..., dim=1), one)
    assert missed(Op("aten.softmax", ..., dim=-1), one).found == "1"
    assert matched(Op("aten.add", ..., alpha=1), two)
    assert missed(Op("aten.softmax", ..., dim=True), one)
    assert matched(Op("aten.mul", Any(), Attr("c")), b.aten.mul.Tensor(x, 2.5))["c"] == 2.5
    assert missed(Op("aten.mul", Any(), Attr("c")), b.aten.mul.Tensor(x, x)).expected == "a Python value"
    assert missed(Op("aten.mul", Any(), Any()), b.aten.mul.Tensor(x, 2.5)).found == "2.5"
    assert matched(Op("aten.mul", Any(), 2), b.aten.mul.Tensor(x, 2))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (Any(rank=4), "4 axes"),
        (Any(dtype=DType.FLOAT16), "elements of type f16"),
        (Any(dtype=[DType.FLOAT16, DType.BFLOAT16]), "elements of type f16 or bf16"),
        (Any(shape=(None, 5)), r"shape [any, 5]"),
        (Any(shape=(None,)), r"shape [any]"),
        (Any().where(lambda v: v.is_output, "a graph output"), "a graph output"),
        (Constant(), "a constant"),
    ],
)
def test_types_and_predicates_narrow_a_value(b, pattern, expected):
    miss = missed(Op(RELU, pattern), b.op(RELU, b.input()))
    assert miss.expected == expected
    assert matched(Op(RELU, Any(rank=2, dtype=DType.FLOAT32, shape=(None, 4))), b.op(RELU, b.input()))


def test_predicates_get_nodes_of_ops_and_values_of_attributes(b):
    y = b.aten.mul.Tensor(b.input(), 3)
    assert matched(Op("aten.mul", Any(), Attr("c").where(lambda c: c > 2, "above 2")), y)
    assert missed(Op("aten.mul", Any(), Attr("c").where(lambda c: c > 3, "above 3")), y).expected == "above 3"
    assert matched(Op("aten.mul", ...).where(lambda node: node.name == "mul", "the first"), y)
    assert missed(Op("aten.mul", ...).where(lambda node: node.name == "x", "called x"), y).expected == "called x"


def test_a_constant_may_be_asked_for_its_content(b):
    y = b.aten.mul.Tensor(b.input(), b.constant("two", torch.full((2, 4), 2.0)))
    assert matched(Op("aten.mul", Any("x"), Constant(value=2)), y)
    assert missed(Op("aten.mul", Any("x"), Constant(value=3)), y)


def test_operands_of_a_commutative_op_match_in_either_order(b):
    x, y = b.input("x"), b.input("y")
    pattern = Op("aten.mul", Any("x"), Op("aten.sigmoid", Any("x")))
    for value in (
        b.aten.mul.Tensor(x, b.aten.sigmoid(x)),
        b.aten.mul.Tensor(b.aten.sigmoid(x), x),
    ):
        assert matched(pattern, value)["x"] is x
    assert missed(pattern, b.aten.mul.Tensor(x, b.aten.sigmoid(y)))
    minus = Op("aten.sub", Any("x"), Op("aten.sigmoid", Any("x")))
    assert missed(minus, b.aten.sub.Tensor(b.aten.sigmoid(x), x))


def test_a_scaled_add_is_not_swapped(b):
    x = b.input()
    scaled = b.aten.add.Tensor(b.aten.sigmoid(x), x, alpha=2)
    pattern = Op("aten.add", Any("x"), Op("aten.sigmoid", Any("x")))
    assert missed(pattern, scaled)
    assert matched(pattern, b.aten.add.Tensor(b.aten.sigmoid(x), x))


def test_an_early_choice_is_taken_back_when_it_turns_out_wrong_late(b):
    x, y = b.input("x"), b.input("y")
    inner = b.aten.mul.Tensor(y, x)
    outer = b.aten.sub.Tensor(inner, x)  # the inner order is decided by what sub reads second
    assert matched(Op("aten.sub", Op("aten.mul", Any("a"), Any("b")), Any("a")), outer)["b"] is y
    assert matched(Op("aten.sub", Op("aten.mul", Any("b"), Any("a")), Any("a")), outer)["b"] is y
    deep = b.aten.mul.Tensor(b.aten.mul.Tensor(x, y), b.aten.mul.Tensor(y, x))
    pattern = Op("aten.mul", Op("aten.mul", Any("a"), Any("b")), Op("aten.mul", Any("a"), Any("b")))
    assert matched(pattern, deep)


def test_one_name_is_one_value_and_one_op_object_one_node(b):
    x = b.input()
    one, other = b.op(RELU, x), b.op(RELU, x)
    square, pair = b.aten.sub.Tensor(one, one), b.aten.sub.Tensor(one, other)
    relu = Op(RELU, Any("x"))
    assert len(matched(Op("aten.sub", relu, relu), square).nodes) == 2
    assert missed(Op("aten.sub", relu, relu), pair).expected == "relu again"
    assert len(matched(Op("aten.sub", relu, Op(RELU, Any("x"))), pair).nodes) == 3
    assert (
        missed(Op("aten.sub", Any("v"), Any("v")), pair).expected
        == "relu: f32[2, 4] = aten.relu, already captured as 'v'"
    )


def test_alternatives_are_tried_in_order(b):
    x = b.input()
    y = b.aten.neg(b.aten.tanh(x))
    pattern = Op("aten.neg", Op(RELU, Any("r")) | Op("aten.tanh", Any("t")))
    match = matched(pattern, y)
    assert match["t"] is x
    assert match["r"] is None
    assert missed(pattern, b.aten.neg(b.aten.sigmoid(x))).found == "aten.sigmoid"
    assert matched(OneOf(Op("aten.abs", ...), Op("aten.neg", ...)), y)
    guarded = (Op(RELU, ...) | Op("aten.tanh", ...)).where(lambda v: v.is_output, "returned")
    assert missed(Op("aten.neg", guarded), y).expected == "returned"


def test_single_use_means_that_only_the_match_reads_a_node(b):
    x = b.input()
    relu = b.op(RELU, x)
    twice = b.aten.mul.Tensor(relu, b.aten.sigmoid(relu))
    inner = Op(RELU, Any("x"), name="relu", single_use=True)
    assert matched(Op("aten.mul", inner, Op("aten.sigmoid", inner)), twice)
    miss = missed(Op("aten.sigmoid", inner), b.graph.node("sigmoid").result)
    assert (miss.expected, miss.found) == ("to be read within the match only", "relu read by mul too")
    assert matched(Op("aten.sigmoid", Op(RELU, Any("x"))), b.graph.node("sigmoid").result)


def test_a_value_that_is_also_a_graph_output_is_not_single_use(b):
    relu = b.op(RELU, b.input())
    neg = b.aten.neg(relu)
    b.outputs(relu, neg)
    assert missed(Op("aten.neg", Op(RELU, ..., single_use=True)), neg).found == "relu read by the graph's output too"
    assert matched(Op("aten.neg", Op(RELU, ...), single_use=True), neg)  # the root's own readers do not count


def test_unshared_constants_are_read_by_the_match_alone_and_not_written_to(b):
    x = b.input("x", f32[4])
    own, shared, written = (b.constant(name, torch.ones(4), "buffer") for name in ("own", "shared", "written"))
    values = [b.aten.mul.Tensor(x, c) for c in (own, shared, written)]
    b.aten.add.Tensor(x, shared)
    b.write(written, values[0])
    pattern = Op("aten.mul", Any("x"), Constant("c", unshared=True))
    assert matched(pattern, values[0])
    assert missed(pattern, values[1]).found == "shared read by add too"
    assert missed(pattern, values[2])


def test_results_of_one_node_are_told_apart(b):
    split = b.node("aten.chunk", b.input(), 2, 1)
    gate = b.aten.mul.Tensor(split.results[0], b.aten.sigmoid(split.results[1]))
    chunk = Op("aten.chunk", Any("x"), ..., chunks=2, name="chunk", single_use=True)
    glu = Op("aten.mul", chunk.result(0), Op("aten.sigmoid", chunk.result(1)))
    assert matched(glu, gate)["chunk"] is split
    turned = Op("aten.mul", chunk.result(1), Op("aten.sigmoid", chunk.result(0)))
    assert "result" in missed(turned, gate).expected
    other = b.node("aten.chunk", b.input(), 2, 1)
    mixed = b.aten.mul.Tensor(split.results[0], b.aten.sigmoid(other.results[1]))
    assert missed(glu, mixed).expected == "chunk again"


def test_each_matches_lists_of_any_length_and_captures_columns(b):
    xs = [b.input(f"x{i}") for i in range(3)]
    relus = [b.op(RELU, x) for x in xs]
    cat = b.aten.cat(relus, 1)
    match = matched(Op("aten.cat", tensors=Each(Op(RELU, Any("x"), name="relu"), "parts")), cat)
    assert match["x"] == tuple(xs)
    assert match["relu"] == tuple(r.node for r in relus)
    assert match["parts"] == tuple(relus)
    assert len(match.nodes) == 4
    mixed = b.aten.cat([relus[0], xs[0]], 1)
    miss = missed(Op("aten.cat", tensors=Each(Op(RELU, Any("x")))), mixed)
    assert miss.path == ("cat", "tensors", "1")
    assert missed(Op("aten.cat", tensors=Each(Any(), minimum=4)), cat).expected == "a list of at least 4"


def test_lists_match_item_by_item(b):
    x = b.input()
    cat = b.aten.cat([x, b.op(RELU, x), x], 1)
    assert matched(Op("aten.cat", [Any("x"), Op(RELU, Any("x")), Any("x")]), cat)
    assert matched(Op("aten.cat", [Any("x"), ...]), cat)
    assert missed(Op("aten.cat", [Any("x"), Any("y")]), cat).expected == "a list of 2"
    assert missed(Op("aten.cat", [Any("x"), Any("x"), ...]), cat)


def test_a_miss_of_the_way_that_got_furthest_is_reported_with_its_place_in_the_model(b):
    x = b.input("x", f32[1, 3, 8, 8])
    y = b.aten.neg(b.op(RELU, conv(b, x)))
    pattern = Op("aten.neg", Op("aten.tanh", ...) | Op(RELU, Op("aten.conv2d", Any(), Constant(rank=3), ...)))
    miss = missed(pattern, y)
    assert miss.path == ("neg", "self", "self", "weight")
    assert str(miss) == (
        "neg.self.self.weight: expected 3 axes, found f32[4, 3, 3, 3]\n"
        "  at conv2d (aten.conv2d), block.conv2d (Conv2D) at model.py:11"
    )


def test_texts_of_misses_are_made_only_when_asked_for(b):
    calls = []
    match = matched(Op(RELU, Any("x")), b.op(RELU, b.input()))
    miss = match.miss("something", lambda: calls.append(1) or "else", at="x")
    assert not calls
    assert str(miss).startswith("relu.self: expected something, found else")
    assert calls


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Op("conv2d"), "needs a dialect, such as 'aten.conv2d'"),
        (lambda: Op("aten.conv2dd"), "torch has no op 'aten.conv2dd'"),
        (lambda: Op("aten.add.Tensro"), "'aten.add' has .*Tensor"),
        (lambda: Op("aten.conv2d", wieght=Any()), "no parameter 'wieght'; did you mean 'weight'"),
        (lambda: Op("aten.relu", Any(), Any()), "takes at most 1"),
        (lambda: Op("aten.relu", ..., Any()), "`...` must come last"),
        (lambda: Op("quant.dequantize", scael=Any()), "did you mean 'scale'"),
    ],
)
def test_patterns_that_could_never_match_are_refused_when_written(make, message):
    with pytest.raises(PatternError, match=message):
        make()


def test_what_a_failed_attempt_went_through_is_no_part_of_the_match(b):
    inner = b.aten.exp(b.input("x"))
    one, other = b.aten.relu(inner), b.aten.relu(b.input("y"))
    total = b.aten.add.Tensor(one, other)
    b.outputs(total)
    # The first operand fits the first pattern, but then the second does not: the operands are swapped.
    pattern = Op("aten.add", Op(RELU, Any("plain"), single_use=True), Op(RELU, Op("aten.exp", ...), single_use=True))
    found = matched(pattern, total)
    assert found["plain"] is other.node.operand("self")
    assert set(found.nodes) == {other.node, inner.node, one.node, total.node}
    assert len(found.nodes) == 4
    assert found.nodes.index(inner.node) < found.nodes.index(one.node)
    assert found.nodes[-1] is total.node


def test_a_node_of_an_alternative_that_failed_is_outside_of_the_match(b):
    shared = b.aten.exp(b.input("x"))
    total = b.aten.mul.Tensor(b.aten.relu(shared), b.aten.neg(shared))
    b.outputs(total)
    attempt = Op("aten.neg", Op("aten.tanh", ...))  # goes through the neg, and fails
    pattern = Op("aten.mul", Op(RELU, Op("aten.exp", ..., single_use=True)), attempt | Any("other"))
    assert "read by neg too" in missed(pattern, total).found

"""Every edit a rewriter makes: what it counts, what it touches, and where new nodes say they come from."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen

from graphpress.ir import verify
from graphpress.ir.annotations import AnnotationError, annotation
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import GraphError
from graphpress.ir.location import UNKNOWN, Location
from graphpress.ir.ops import lookup_op
from graphpress.ir.rewriter import EditCounts, Rewrite, RewriteCounter, RewriteLimitReached, Rewriter, drop_defaults
from graphpress.ir.types import Symbol
from graphpress.passes.framework.testing import ElementType, GraphBuilder, f16, f32, op_names


@annotation("rewriter-test.note")
@frozen
class Note:
    text: str


def chain():
    """x -> neg -> relu -> exp -> out, with a weight that the exp is multiplied by."""
    build = GraphBuilder()
    value = build.aten.exp(build.aten.relu(build.aten.neg(build.input())))
    return build.outputs(build.aten.mul.Tensor(value, build.constant("w", torch.ones(4), "buffer")))


def counts(rewriter):
    edits = rewriter.edits
    return edits.added, edits.removed, edits.changed, edits.constants, edits.annotated


# insertion


def test_a_node_is_inserted_where_it_is_wanted_with_the_location_of_its_anchor():
    graph = chain()
    rewriter, heard = Rewriter(graph), []
    rewriter.listener = heard.append
    relu, x = graph.node("relu"), graph.inputs[0].value
    before = rewriter.insert_before(relu, "aten.abs", {"self": x})
    after = rewriter.insert_after(relu, "aten.tanh", {"self": relu.result}, name="after")
    last = rewriter.insert_before(None, lookup_op("aten.sin"), {"self": x})
    assert op_names(graph) == ["neg", "abs", "relu", "tanh", "exp", "mul", "sin"]
    assert (before.location, after.location, last.location) == (relu.location, relu.location, UNKNOWN)
    assert after.name == "after"
    assert counts(rewriter) == (3, 0, 0, 0, 0)
    assert list(rewriter.touched) == ["abs", "after", "sin"]
    assert heard == [before, after, last]


def test_a_node_inserted_after_the_last_is_the_last():
    graph = chain()
    mul = graph.node("mul")
    made = Rewriter(graph).insert_after(mul, "aten.neg", {"self": mul.result}, location=UNKNOWN)
    assert op_names(graph)[-1] == "neg"
    assert made.location == UNKNOWN


def test_attributes_at_their_defaults_and_operands_that_are_none_are_left_out():
    graph = chain()
    x = graph.inputs[0].value
    rewriter = Rewriter(graph)
    clamp = rewriter.insert_before(None, "aten.clamp", {"self": x, "other": None}, {"min": None, "max": 2.0})
    cat = rewriter.insert_before(None, "aten.cat", {"tensors": [x, x]}, {"dim": 0})
    assert (clamp.attributes, dict(clamp.operands)) == ({"max": 2.0}, {"self": x})
    assert (cat.attributes, cat.operands["tensors"]) == ({}, (x, x))


def test_only_the_very_default_is_left_out():
    op = lookup_op("aten.add.Tensor")
    assert drop_defaults(op, {"alpha": 1}) == {}
    assert drop_defaults(op, {"alpha": 1.0}) == {"alpha": 1.0}
    assert drop_defaults(op, {"alpha": True}) == {"alpha": True}
    assert drop_defaults(op, {"unknown": 1, "other": None}) == {"unknown": 1, "other": None}
    conv = lookup_op("aten.conv2d")
    assert drop_defaults(conv, {"stride": [1, 1], "padding": [2, 2], "groups": 1}) == {"padding": (2, 2)}


def test_types_that_cannot_be_inferred_are_asked_for():
    build = GraphBuilder()
    build.graph.symbols["s0"] = Symbol(1, None, 2)
    x = build.input("x", f32["s0"])
    rewriter = Rewriter(build.graph)
    with pytest.raises(GraphError, match=r"cannot infer the result types of aten\.cumsum: pass them as `types`"):
        rewriter.insert_before(None, "aten.cumsum", {"self": x}, {"dim": 0})
    assert len(build.graph.nodes) == 0
    assert (
        rewriter.insert_before(None, "aten.cumsum", {"self": x}, {"dim": 0}, types=[f32["s0"]]).result.type == f32["s0"]
    )


# replacement


def test_what_replaces_nodes_comes_from_all_of_them():
    graph = chain()
    neg, relu = graph.node("neg"), graph.node("relu")
    both = Location.union([neg.location, relu.location])
    rewriter, heard = Rewriter(graph), []
    first = rewriter.insert_before(relu, "aten.abs", {"self": neg.operand("self")})
    second = rewriter.insert_before(relu, "aten.tanh", {"self": first.result})
    rewriter.listener = heard.append
    rewriter.replace([neg, relu], second.result)
    assert op_names(graph) == ["abs", "tanh", "exp", "mul"]
    assert (first.location, second.location) == (both, both)
    assert counts(rewriter) == (2, 2, 1, 0, 0)
    assert list(rewriter.touched) == ["abs", "tanh", "exp"]
    assert heard == [graph.node("exp")]
    exp = graph.node("exp")
    later = rewriter.insert_before(None, "aten.neg", {"self": second.result})
    assert later.location == UNKNOWN
    rewriter.replace(exp, second.result)
    assert (second.location, later.location) == (both, exp.location)
    verify(graph)


def test_a_value_that_was_there_before_keeps_its_location():
    graph = chain()
    neg, relu = graph.node("neg"), graph.node("relu")
    own = neg.location
    Rewriter(graph).replace(relu, neg.result)
    assert neg.location == own
    assert op_names(graph) == ["neg", "exp", "mul"]


def test_nodes_that_something_else_reads_stay():
    graph = chain()
    neg, relu = graph.node("neg"), graph.node("relu")
    graph.add_output(neg.result)
    Rewriter(graph).replace([neg, relu], graph.inputs[0].value)
    assert op_names(graph) == ["neg", "exp", "mul"]


def test_there_are_as_many_replacements_as_results():
    graph = chain()
    x = graph.inputs[0].value
    with pytest.raises(GraphError, match="relu has 1 results, got 2 replacements"):
        Rewriter(graph).replace(graph.node("relu"), [x, x])


def test_an_inserted_node_that_is_gone_again_needs_no_location():
    graph = chain()
    rewriter = Rewriter(graph)
    made = rewriter.insert_before(graph.node("relu"), "aten.abs", {"self": graph.inputs[0].value})
    rewriter.erase(made)
    rewriter.replace(graph.node("relu"), graph.node("neg").result)
    assert counts(rewriter) == (1, 2, 1, 0, 0)
    assert made.location == Location.union([made.location])


def test_some_uses_move():
    graph = chain()
    x, neg, relu = graph.inputs[0].value, graph.node("neg"), graph.node("relu")
    graph.add_output(neg.result)
    rewriter = Rewriter(graph)
    rewriter.replace_uses(neg.result, x, where=lambda use: use.user is relu)
    assert relu.operand("self") is x
    assert graph.outputs[-1].value is neg.result
    assert counts(rewriter) == (0, 0, 1, 0, 0)
    assert list(rewriter.touched) == ["relu"]
    rewriter.replace_uses(neg.result, neg.result)
    assert counts(rewriter) == (0, 0, 1, 0, 0)


# single edits


def test_erasing_renaming_and_setting_are_counted():
    graph = chain()
    x, exp = graph.inputs[0].value, graph.node("exp")
    rewriter, heard = Rewriter(graph), []
    rewriter.listener = heard.append
    rewriter.set_operand(exp, "self", x)
    rewriter.erase(graph.node("relu"))
    assert counts(rewriter) == (0, 1, 1, 0, 0)
    rewriter.rename(graph.node("neg"), "relu")
    rewriter.rename(exp, "relu")
    assert [node.name for node in graph.nodes] == ["relu", "relu_1", "mul"]
    assert list(rewriter.touched) == ["relu", "relu_1"]
    assert graph.fresh_name("neg") == "neg"
    assert counts(rewriter) == (0, 1, 3, 0, 0)
    assert heard == [exp]


def test_attributes_are_set_and_dropped_at_their_default():
    build = GraphBuilder()
    node = build.node("aten.add.Tensor", build.input(), 1.0)
    rewriter, heard = Rewriter(build.graph), []
    rewriter.listener = heard.append
    rewriter.set_attribute(node, "alpha", 2)
    assert node.attributes == {"other": 1.0, "alpha": 2}
    rewriter.set_attribute(node, "alpha", 2)
    assert counts(rewriter) == (0, 0, 1, 0, 0)
    rewriter.set_attribute(node, "alpha", 1)
    assert node.attributes == {"other": 1.0}
    assert counts(rewriter) == (0, 0, 2, 0, 0)
    assert heard == [node, node]


def test_annotations_are_counted_by_themselves_too():
    graph = chain()
    relu = graph.node("relu")
    rewriter, heard = Rewriter(graph), []
    rewriter.listener = heard.append
    rewriter.annotate(relu, Note("a"))
    rewriter.annotate(relu, Note("a"))
    assert counts(rewriter) == (0, 0, 1, 0, 1)
    rewriter.annotate(relu, Note("b"))
    assert relu.annotations == {Note: Note("b")}
    rewriter.remove_annotation(relu, Note)
    rewriter.remove_annotation(relu, Note)
    assert relu.annotations == {}
    assert counts(rewriter) == (0, 0, 3, 0, 3)
    assert list(rewriter.touched) == ["relu"]
    assert heard == []
    with pytest.raises(AnnotationError, match="int is not registered as an annotation"):
        rewriter.annotate(relu, 3)


# constants


def test_constants_are_made_replaced_cast_and_erased():
    graph = chain()
    rewriter = Rewriter(graph)
    weight = graph.constants["w"]
    weight.digest = "of the old data"
    rewriter.replace_constant(weight, torch.full((4,), 2.0))
    assert (weight.tensor.tolist(), weight.digest) == ([2, 2, 2, 2], None)
    with pytest.raises(GraphError, match=r"w: f32\[3\] cannot replace f32\[4\]"):
        rewriter.replace_constant(weight, torch.ones(3))
    with pytest.raises(GraphError, match=r"w: f64\[4\] cannot replace f32\[4\]"):
        rewriter.replace_constant(weight, torch.ones(4, dtype=torch.float64))
    weight.digest = "of the old data"
    rewriter.cast_constant(weight, DType.FLOAT16)
    assert (weight.tensor.dtype, weight.type, weight.digest) == (torch.float16, f16[4], None)
    codes = rewriter.add_constant("codes", torch.zeros(2, dtype=torch.int8), type=ElementType(DType.INT4)[2])
    assert (codes.type, codes.constant.kind) == (ElementType(DType.INT4)[2], "buffer")
    assert rewriter.edits.constants == 3
    rewriter.erase_constant(codes.constant)
    assert list(graph.constants) == ["w"]
    assert counts(rewriter) == (0, 0, 0, 4, 0)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_parameter_that_is_cast_is_a_parameter_still(requires_grad):
    graph = chain()
    parameter = graph.add_constant("p", torch.nn.Parameter(torch.ones(2), requires_grad=requires_grad))
    Rewriter(graph).cast_constant(parameter, DType.FLOAT16)
    assert isinstance(parameter.tensor, torch.nn.Parameter)
    assert (parameter.tensor.requires_grad, parameter.tensor.is_leaf) == (requires_grad, True)


def test_a_value_is_retyped():
    graph = chain()
    rewriter = Rewriter(graph)
    rewriter.retype(graph.inputs[0].value, f16[2, 4])
    assert graph.inputs[0].value.type == f16[2, 4]
    assert counts(rewriter) == (0, 0, 1, 0, 0)
    assert rewriter.rewrites.last == Rewrite(1, "retype x")


@pytest.mark.parametrize("what", ["added", "removed", "changed", "constants"])
def test_any_edit_is_a_change(what):
    assert EditCounts(**{what: 1})
    assert not EditCounts()


# rewrites


def test_a_rewrite_says_what_it_is_and_where_it_starts():
    graph = chain()
    relu = graph.node("relu")
    begun = []
    rewriter = Rewriter(graph, rewrites=RewriteCounter(listener=begun.append))
    rewriter.erase(rewriter.insert_before(None, "aten.neg", {"self": relu.result}))
    rewriter.set_operand(relu, "self", graph.inputs[0].value)
    rewriter.set_operand(relu, "self", graph.node("neg").result)
    rewriter.erase_constant(graph.add_constant("unread", torch.ones(1)))
    assert [str(rewrite) for rewrite in begun] == [
        "rewrite 1: insert aten.neg",
        "rewrite 2: set operand self at relu (aten.relu)",
        "rewrite 3: erase constant unread",
    ]
    assert begun[1].location == relu.location
    assert rewriter.rewrites.last == begun[-1]
    assert rewriter.rewrites.count == 3


def test_edits_of_a_rule_are_one_rewrite():
    graph = chain()
    relu, exp = graph.node("relu"), graph.node("exp")
    rewriter = Rewriter(graph)
    rewriter.rewrites.begin("my rule", relu)
    rewriter.annotate(exp, Note("a"))
    rewriter.annotate(relu, Note("a"))
    rewriter.rewrites.end()
    assert str(rewriter.rewrites.last) == "rewrite 1: my rule at relu (aten.relu)"
    rewriter.rewrites.begin("without edits", relu)
    rewriter.rewrites.end()
    assert rewriter.rewrites.count == 1
    rewriter.annotate(exp, Note("b"))
    assert rewriter.rewrites.count == 2


def test_a_limit_stops_right_before_the_rewrite_that_is_too_many():
    graph = chain()
    relu, exp = graph.node("relu"), graph.node("exp")
    rewriter = Rewriter(graph, rewrites=RewriteCounter(limit=1))
    rewriter.annotate(relu, Note("a"))
    rewriter.annotate(relu, Note("b"))
    with pytest.raises(RewriteLimitReached):
        rewriter.annotate(exp, Note("a"))
    assert (relu.annotations, exp.annotations) == ({Note: Note("b")}, {})
    assert rewriter.rewrites.count == 1


# what the driver asks for


def relu_chain(length):
    build = GraphBuilder()
    value = build.input()
    for _ in range(length):
        value = build.aten.relu(value)
    return build.outputs(value)


def test_a_node_is_put_right_after_another_with_its_location():
    graph = relu_chain(3)
    rewriter, second = Rewriter(graph), graph.node("relu_1")
    made = rewriter.insert_after(second, "aten.neg", {"self": second.result}, name="minus")
    assert [node.name for node in graph.nodes] == ["relu", "relu_1", "minus", "relu_2"]
    assert made.location == second.location
    rewriter.replace_uses(second.result, made.result, where=lambda use: use.user is not made)
    assert graph.node("relu_2").operand("self") is made.result
    verify(graph)


def test_a_node_is_put_after_the_last_one_and_several_stand_in_reverse():
    graph = relu_chain(1)
    rewriter, last = Rewriter(graph), graph.node("relu")
    for op in ("aten.neg", "aten.abs"):
        rewriter.insert_after(last, op, {"self": last.result})
    assert [node.op.short_name for node in graph.nodes] == ["relu", "abs", "neg"]
    assert [node.op.short_name for node in reversed(graph.nodes)] == ["neg", "abs", "relu"]


def test_a_location_that_is_given_counts_and_attributes_are_taken():
    b = GraphBuilder()
    x = b.input()
    first, second = b.node("aten.relu", x), b.node("aten.tanh", x)
    rewriter = Rewriter(b.graph)
    made = rewriter.insert_after(second, "aten.clamp_max", {"self": x}, {"max": 2.0}, location=first.location)
    assert (made.location, made.attribute("max")) == (first.location, 2.0)
    rewriter.replace(second, made.result)
    assert made.location == first.location


def test_nothing_is_put_after_a_node_of_another_graph():
    graph, other = relu_chain(2), relu_chain(2)
    with pytest.raises(GraphError, match="relu_1 is not in graph 'main'"):
        Rewriter(graph).insert_after(other.node("relu"), "aten.neg", {"self": graph.node("relu").result})
    assert len(graph.nodes) == 2


def test_what_was_made_is_known_until_it_stands_for_something_or_another_rewrite_begins():
    graph = relu_chain(2)
    rewriter, (first, second) = Rewriter(graph), graph.nodes
    made = rewriter.insert_before(second, "aten.neg", {"self": first.result})
    placed = rewriter.insert_after(second, "aten.abs", {"self": second.result})
    assert rewriter.made == [made, placed]
    rewriter.begin("another", second)
    assert rewriter.made == []
    new = rewriter.insert_before(second, "aten.tanh", {"self": first.result})
    rewriter.replace([first, second], new.result)
    assert rewriter.made == []
    assert [origin.module_path for origin in new.location.origins] == ["block.relu", "block.relu_1"]
    assert [origin.module_path for origin in made.location.origins] == ["block.relu_1"]  # it belongs to no replacement

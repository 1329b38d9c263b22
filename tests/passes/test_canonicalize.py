from __future__ import annotations

import pytest
import torch

from graphpress.ir.interpreter import run as interpret
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.framework import explain, lookup_rule, registered_rules
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, f32, op_names
from tests.passes.quantization_graphs import image, random, run


def canonical(b, *outputs):
    return run(b.outputs(*outputs), Canonicalize())


IDENTITIES = {
    "dropout in evaluation": ("aten.dropout", 0.5, False),
    "view of the same shape": ("aten.reshape", (1, 4, 8, 8)),
    "expansion of the same shape": ("aten.expand", (1, 4, 8, 8)),
    "whole slice": ("aten.slice.Tensor", 1, 0, 2**63 - 1),
    "times one": ("aten.mul.Tensor", 1.0),
    "divided by one": ("aten.div.Tensor", 1),
    "copy": ("aten.clone",),
    "alias": ("aten.alias",),
    "memory format": ("aten.contiguous",),
}


@pytest.mark.parametrize("case", IDENTITIES)
def test_what_does_nothing_is_removed(case):
    op, *arguments = IDENTITIES[case]
    b = GraphBuilder()
    graph = canonical(b, b.aten.relu(b.op(op, image(b), *arguments)))
    assert op_names(graph) == ["relu"]


KEPT = {
    "dropout in training": ("aten.dropout", 0.5, True),
    "view of another shape": ("aten.reshape", (4, 8, 8)),
    "part": ("aten.slice.Tensor", 1, 1, 4),
    "every second": ("aten.slice.Tensor", 1, 0, 4, 2),
    "times two": ("aten.mul.Tensor", 2),
    "plus zero": ("aten.add.Tensor", 0),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_does_something_stays(case):
    op, *arguments = KEPT[case]
    b = GraphBuilder()
    assert len(canonical(b, b.op(op, image(b), *arguments)).nodes) == 1


def test_division_that_rounds_is_no_identity():
    b = GraphBuilder()
    assert op_names(canonical(b, b.aten.div.Tensor_mode(image(b), 1, rounding_mode="floor"))) == ["div"]


def test_a_convolution_to_another_dtype_is_no_copy():
    b = GraphBuilder()
    assert op_names(canonical(b, b.aten.to.dtype(image(b), torch.float16))) == ["to"]


@pytest.mark.parametrize(
    ("padding", "kernel", "op", "expected"),
    [
        ("valid", 3, "aten.conv2d", (0, 0)),
        ("same", 3, "aten.conv2d", (1, 1)),
        ("same", 5, "aten.conv2d", (2, 2)),
        ("same", 2, "aten.conv2d.padding", "same"),
    ],
)
def test_padding_by_name_becomes_numbers_where_both_sides_have_the_same(padding, kernel, op, expected):
    b = GraphBuilder()
    weight = b.constant("weight", random(4, 4, kernel, kernel))
    (node,) = canonical(b, b.aten.conv2d.padding(image(b), weight, padding=padding)).nodes
    assert node.op.name == op
    assert node.attribute("padding") == expected


@pytest.mark.parametrize(
    ("rank", "transposed", "op"),
    [
        (3, False, "aten.conv1d"),
        (4, False, "aten.conv2d"),
        (5, False, "aten.conv3d"),
        (3, True, "aten.conv_transpose1d"),
        (4, True, "aten.conv_transpose2d.input"),
    ],
)
def test_the_general_convolution_becomes_the_one_of_its_rank(rank, transposed, op):
    b = GraphBuilder()
    ones = (1,) * (rank - 2)
    x = b.input("x", f32[1, 4, *[6] * (rank - 2)])
    weight = b.constant("weight", random(4, 4, *[3] * (rank - 2)))
    zeros = (0,) * (rank - 2)
    value = b.aten.convolution(x, weight, None, ones, ones, ones, transposed, zeros, 1)
    assert [node.op.name for node in canonical(b, value).nodes] == [op]


@pytest.mark.parametrize(
    "turn", [("aten.t",), ("aten.transpose.int", 0, 1), ("aten.permute", (1, 0))], ids=lambda turn: turn[0]
)
def test_addmm_of_a_turned_matrix_is_a_linear_layer(turn):
    b = GraphBuilder()
    weight, bias = b.constant("weight", random(5, 4)), b.constant("bias", random(5))
    op, *arguments = turn
    graph = canonical(b, b.aten.addmm(bias, b.input(), b.op(op, weight, *arguments)))
    (node,) = [node for node in graph.nodes if not node.is_dead]
    assert node.op.name == "aten.linear"
    assert node.operands["weight"].constant.name == "weight"


@pytest.mark.parametrize("turn", [("aten.transpose.int", 0, -2), ("aten.permute", (0, 1))], ids=lambda turn: turn[0])
def test_addmm_of_a_matrix_whose_axes_stay_where_they_are_is_left(turn):
    b = GraphBuilder()
    bias, weight = b.constant("bias", random(4)), b.constant("weight", random(4, 4))
    op, *arguments = turn
    graph = b.outputs(b.op("aten.addmm", bias, b.input("x", f32[2, 4]), b.op(op, weight, *arguments)))
    assert "addmm" in op_names(assert_effect(Canonicalize(), graph, [random(2, 4)], changes=False).graph)
    (miss,) = explain(lookup_rule("canonicalize/addmm-to-linear"), graph).misses
    assert (miss.expected, miss.node.op.name) == ("the two axes to be exchanged", op)


@pytest.mark.parametrize("turn", [("aten.transpose.int", -1, 0), ("aten.permute", (-1, -2))], ids=lambda turn: turn[0])
def test_axes_are_counted_from_either_end(turn):
    b = GraphBuilder()
    bias, weight = b.constant("bias", random(4)), b.constant("weight", random(4, 4))
    op, *arguments = turn
    graph = b.outputs(b.op("aten.addmm", bias, b.input("x", f32[2, 4]), b.op(op, weight, *arguments)))
    assert op_names(assert_effect(Canonicalize(), graph, [random(2, 4)]).graph) == ["linear"]


def test_a_scaled_addmm_stays():
    b = GraphBuilder()
    weight, bias = b.constant("weight", random(5, 4)), b.constant("bias", random(5))
    value = b.aten.addmm(bias, b.input(), b.aten.t(weight), beta=2)
    assert "addmm" in op_names(canonical(b, value))


def native(b, op, *extra, read=1):
    parameters = [b.constant(name, random(4).abs() + 0.1, "buffer") for name in ("gamma", "beta", "mean", "var")]
    node = b.node(op, image(b), *parameters, *extra)
    return list(node.results[:read])


@pytest.mark.parametrize(
    ("op", "extra"),
    [
        ("aten._native_batch_norm_legit_no_training", (0.1, 1e-3)),
        ("aten.native_batch_norm", (False, 0.1, 1e-3)),
        ("aten.cudnn_batch_norm", (False, 0.1, 1e-3)),
    ],
)
def test_native_norms_are_batch_norms_in_evaluation(op, extra):
    b = GraphBuilder()
    (node,) = canonical(b, *native(b, op, *extra)).nodes
    assert node.op.name == "aten.batch_norm"
    assert (node.attribute("eps"), node.attribute("training")) == (1e-3, False)


def test_a_native_norm_whose_statistics_are_read_or_that_trains_stays():
    b = GraphBuilder()
    assert op_names(canonical(b, *native(b, "aten.native_batch_norm", False, 0.1, 1e-3, read=2))) == [
        "native_batch_norm"
    ]
    b = GraphBuilder()
    assert op_names(canonical(b, *native(b, "aten.native_batch_norm", True, 0.1, 1e-3))) == ["native_batch_norm"]


def test_a_rewritten_node_comes_from_where_the_old_one_did():
    b = GraphBuilder()
    weight = b.constant("weight", random(4, 4, 3, 3))
    graph = canonical(b, b.aten.conv2d.padding(image(b), weight, padding="same", name="conv"))
    (node,) = graph.nodes
    assert node.location.scopes[-1].path == "block.conv"


def test_what_stands_for_a_node_has_its_name():
    b = GraphBuilder()
    weight = b.constant("weight", random(4, 4, 3, 3))
    value = b.aten.conv2d.padding(image(b), weight, padding="same", name="conv")
    assert canonical(b, value).node("conv").op.name == "aten.conv2d"
    b = GraphBuilder()
    assert canonical(b, *native(b, "aten.native_batch_norm", False, 0.1, 1e-3)).node("native_batch_norm")


def test_a_view_becomes_a_reshape_so_that_no_copy_is_needed_before_it():
    b = GraphBuilder()
    turned = b.aten.contiguous(b.aten.transpose.int(image(b), 1, 2))
    graph = canonical(b, b.aten.view(turned, (1, 8, 32)))
    assert op_names(graph) == ["transpose", "reshape"]
    assert interpret(graph, [random(1, 4, 8, 8)])[0].shape == (1, 8, 32)


def test_copies_stay_where_an_op_sees_how_a_tensor_lies_in_memory():
    b = GraphBuilder()
    turned = b.aten.contiguous(b.aten.transpose.int(image(b), 1, 2))
    value = b.aten.as_strided(turned, (4, 4), (4, 1))
    assert op_names(canonical(b, value)) == ["transpose", "contiguous", "as_strided"]


def test_a_kept_dropout_moves_behind_all_activations_at_once():
    b = GraphBuilder()
    x = b.aten.relu(b.aten.relu(b.aten.dropout(image(b), 0.5, False)))
    graph = run(b.outputs(x), Canonicalize(keep_dropout=True))
    assert op_names(graph) == ["relu", "relu", "dropout"]
    assert run(graph, Canonicalize(keep_dropout=True)) == graph


def test_a_moved_dropout_keeps_its_name_and_place_in_the_model_and_so_does_the_relu():
    b = GraphBuilder()
    dropout = b.op("aten.dropout", image(b), 0.5, False, name="drop")
    graph = b.outputs(b.op("aten.leaky_relu", dropout, 0.2, name="act"))
    locations = {node.name: node.location for node in graph.nodes}
    result = run(graph, Canonicalize(keep_dropout=True))
    assert [(node.name, node.op.short_name) for node in result.nodes] == [("act", "leaky_relu"), ("drop", "dropout")]
    assert {node.name: node.location for node in result.nodes} == locations
    assert result.node("drop").attributes == {"p": 0.5, "train": False}


def test_only_a_kept_dropout_in_front_of_a_norm_goes():
    b = GraphBuilder()
    parameters = [b.constant(name, random(4).abs() + 0.1, "buffer") for name in ("gamma", "beta", "mean", "var")]
    norm = b.node("aten.native_batch_norm", b.op("aten.dropout", image(b), 0.5, False), *parameters, False, 0.1, 1e-3)
    graph = b.outputs(b.op("aten.dropout", norm.results[0], 0.5, False))
    assert op_names(run(graph, Canonicalize(keep_dropout=True))) == ["batch_norm", "dropout"]


def test_a_dropout_that_something_else_reads_is_kept_where_it_is():
    b = GraphBuilder()
    dropout = b.op("aten.dropout", image(b), 0.5, False)
    graph = b.outputs(b.op("aten.relu", dropout), dropout)
    assert run(graph, Canonicalize(keep_dropout=True)) == graph


def test_an_alpha_dropout_shifts_values_and_moves_behind_nothing():
    b = GraphBuilder()
    graph = b.outputs(b.op("aten.relu", b.op("aten.alpha_dropout", image(b), 0.5, False)))
    assert run(graph, Canonicalize(keep_dropout=True)) == graph


def test_a_gate_is_one_op_under_the_name_of_the_product():
    b = GraphBuilder()
    x = image(b)
    graph = canonical(b, b.op("aten.mul.Tensor", b.op("aten.sigmoid", x), x, name="gate"))
    assert [(node.name, node.op.name) for node in graph.nodes] == [("gate", "aten.silu")]
    b = GraphBuilder()
    gate = b.op("aten.sigmoid", image(b))
    assert "silu" not in op_names(canonical(b, b.op("aten.mul.Tensor", gate, b.op("aten.relu", gate))))


# The rules, by name.


def reason(rule, graph):
    (miss,) = explain(lookup_rule(f"canonicalize/{rule}"), graph).misses
    return miss.expected, miss.found


def test_every_rewrite_is_a_rule_that_says_what_it_does():
    rules = {name: rule for name, rule in registered_rules().items() if name.startswith("canonicalize/")}
    assert {"canonicalize/drop-dropout", "canonicalize/move-dropout-behind-relu"} <= set(rules)
    assert all(rule.summary.endswith(".") and rule.summary.split()[0] in VERBS for rule in rules.values())


VERBS = {"Remove", "Replace", "Move"}


def test_options_choose_among_the_rules():
    evaluated, trained = ({rule.name for rule in Canonicalize(keep_dropout=keep).all_rules()} for keep in (False, True))
    assert evaluated - trained == {"drop-dropout"}
    assert trained - evaluated == {"drop-dropout-before-norm", "move-dropout-behind-relu"}


def test_why_a_copy_stays_is_told_from_the_graph_it_is_in():
    b = GraphBuilder()
    copy = b.op("aten.clone", image(b))
    graph = b.outputs(b.op("aten.as_strided", copy, (4, 4), (4, 1), name="strided"))
    assert reason("drop-copy", graph) == ("a graph where no op reads strides", "strided (aten.as_strided)")


def test_why_a_rewrite_does_not_apply_is_told():
    b = GraphBuilder()
    norm = native(b, "aten.native_batch_norm", False, 0.1, 1e-3, read=2)
    wanted, found = reason("native-norm-to-batch-norm", b.outputs(*norm))
    assert (wanted, found) == ("statistics that nothing reads", "native_batch_norm#1, which is read")
    b = GraphBuilder()
    rounded = b.op("aten.div.Tensor_mode", image(b), 1, rounding_mode="floor")
    assert reason("drop-division-by-one", b.outputs(rounded)) == (
        "a division that does not round",
        "rounding_mode='floor'",
    )
    b = GraphBuilder()
    weight = b.constant("weight", random(4, 4, 2, 2))
    padded = b.op("aten.conv2d.padding", image(b), weight, padding="same")
    assert reason("padding-in-numbers", b.outputs(padded))[0] == "the same padding on both sides"
    b = GraphBuilder()
    assert reason("drop-dropout", b.outputs(b.op("aten.dropout", image(b), 0.5, True))) == ("False", "True")
    b = GraphBuilder()
    assert reason("drop-dropout-before-norm", b.outputs(b.op("aten.dropout", image(b), 0.5, False))) == (
        "to be read by a batch norm alone",
        "the graph's output",
    )

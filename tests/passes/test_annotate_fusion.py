from __future__ import annotations

import pytest

from graphpress.passes.analysis.fusion import (
    FusionGroup,
    FusionPattern,
    FusionPatternError,
    Role,
    register_fusion_pattern,
    unregister_fusion_pattern,
)
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.framework.testing import GraphBuilder
from tests.passes.quantization_graphs import convolution, groups, image, random, run


def annotated(b, *outputs):
    return run(b.outputs(*outputs), AnnotateFusion())


def test_a_convolution_and_its_activation_are_one_group():
    b = GraphBuilder()
    graph = annotated(b, b.aten.relu(convolution(b, image(b), "conv"), name="relu"))
    assert groups(graph) == [["conv", "relu"]]
    assert [node.annotation(FusionGroup).role for node in graph.nodes] == [Role.ANCHOR, Role.TAIL]


def test_a_norm_that_was_not_folded_belongs_to_the_group_between():
    b = GraphBuilder()
    parameters = [b.constant(name, random(4).abs() + 1, "buffer") for name in ("gamma", "beta", "mean", "var")]
    norm = b.aten.batch_norm(convolution(b, image(b), "conv"), *parameters, False, 0.1, 1e-5, True, name="norm")
    graph = annotated(b, b.aten.relu(norm, name="relu"))
    assert groups(graph) == [["conv", "norm", "relu"]]
    assert graph.node("norm").annotation(FusionGroup).role is Role.MEMBER


def test_an_activation_that_is_not_the_only_reader_is_a_group_of_its_own():
    b = GraphBuilder()
    conv = convolution(b, image(b), "conv")
    graph = annotated(b, b.aten.relu(conv, name="relu"), b.aten.tanh(conv, name="tanh"))
    assert groups(graph) == [["conv"], ["relu"], ["tanh"]]
    assert graph.node("conv").annotation(FusionGroup).role is Role.WHOLE


def test_a_convolution_that_the_model_returns_keeps_its_activation_out():
    b = GraphBuilder()
    conv = convolution(b, image(b), "conv")
    assert groups(annotated(b, conv, b.aten.relu(conv, name="relu"))) == [["conv"], ["relu"]]


def test_one_activation_after_another_is_not_in_the_group():
    b = GraphBuilder()
    relu = b.aten.relu(convolution(b, image(b), "conv"), name="relu")
    assert groups(annotated(b, b.aten.sigmoid(relu, name="sigmoid"))) == [["conv", "relu"], ["sigmoid"]]


@pytest.mark.parametrize(
    "op", ["aten.relu6", "aten.leaky_relu", "aten.silu", "aten.gelu", "aten.hardswish", "aten.mish"]
)
def test_many_activations_fuse(op):
    b = GraphBuilder()
    assert groups(annotated(b, b.op(op, convolution(b, image(b), "conv"), name="act"))) == [["conv", "act"]]


def test_an_addition_takes_its_activation_and_leaves_the_layers_before_alone():
    b = GraphBuilder()
    one, other = (convolution(b, image(b, f"x{i}"), f"conv{i}") for i in range(2))
    added = b.aten.relu(b.aten.add.Tensor(one, other, name="add"), name="relu")
    assert groups(annotated(b, added)) == [["conv0"], ["conv1"], ["add", "relu"]]


def test_ops_that_only_move_values_and_ops_on_integers_have_no_group():
    b = GraphBuilder()
    x = image(b)
    flat = b.aten.flatten.using_ints(x, 1, name="flat")
    found = b.aten.argmax(x, 1, name="argmax")
    assert groups(annotated(b, flat, b.aten.add.Tensor(found, found))) == []


def test_what_depends_on_constants_alone_has_no_group():
    b = GraphBuilder()
    weight = b.aten.mul.Tensor(b.constant("weight", random(4, 4, 3, 3)), b.constant("gain", random(1)), name="mul")
    assert groups(annotated(b, b.aten.conv2d(image(b), weight, name="conv"))) == [["conv"]]


def test_a_registered_pattern_is_tried_before_shorter_ones_until_it_is_unregistered():
    register_fusion_pattern(FusionPattern("conv-relu-neg", ("conv2d", "relu relu6", "neg")))
    try:
        b = GraphBuilder()
        value = b.aten.neg(b.aten.relu(convolution(b, image(b), "conv"), name="relu"), name="neg")
        graph = b.outputs(value)
        assert groups(run(graph, AnnotateFusion())) == [["conv", "relu", "neg"]]
    finally:
        unregister_fusion_pattern("conv-relu-neg")
    assert groups(run(graph, AnnotateFusion())) == [["conv", "relu"]]


def test_pattern_names_are_taken_once_and_near_names_are_suggested():
    with pytest.raises(FusionPatternError, match="already"):
        register_fusion_pattern(FusionPattern("layer", ("conv2d",)))
    with pytest.raises(FusionPatternError, match="layer-norm"):
        unregister_fusion_pattern("layer-nrom")
    with pytest.raises(FusionPatternError, match="at least one op type"):
        FusionPattern("empty", ("conv2d", ""))

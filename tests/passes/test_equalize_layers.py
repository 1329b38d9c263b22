"""Cross-layer equalization: what it moves, what it leaves, and that the ranges meet."""

from __future__ import annotations

import itertools

import pytest
import torch
from attrs import frozen
from hypothesis import given, settings

from graphpress.passes.equalize_layers import EqualizeLayers
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, f32
from tests.ir.strategies import graphs, random_inputs
from tests.properties.layer_graphs import layer_graphs, with_own_names

few = settings(max_examples=30, deadline=None)
fewer = settings(max_examples=10, deadline=None)
BETWEEN = {
    "nothing": (),
    "relu": (("aten.relu", {}),),
    "leaky relu": (("aten.leaky_relu", {"negative_slope": 0.1}),),
    "pool and relu": (
        ("aten.max_pool2d", {"kernel_size": [2, 2], "stride": [1, 1]}),
        ("aten.relu", {}),
        ("aten.avg_pool2d", {"kernel_size": [2, 2], "stride": [1, 1]}),
    ),
}
# second layer: op, weight shape, attributes; the first makes 4 channels
SECOND = {
    "convolution": ("aten.conv2d", (3, 4, 1, 1), {}),
    "grouped": ("aten.conv2d", (6, 2, 1, 1), {"groups": 2}),
    "depthwise": ("aten.conv2d", (8, 1, 1, 1), {"groups": 4}),
    "transposed": ("aten.conv_transpose2d.input", (4, 3, 2, 2), {"stride": [2, 2]}),
    "transposed and grouped": ("aten.conv_transpose2d.input", (4, 3, 2, 2), {"groups": 2}),
}
FIRST = {
    "convolution": ("aten.conv2d", (4, 2, 3, 3), {}),
    "grouped": ("aten.conv2d", (4, 1, 3, 3), {"groups": 2}),
    "transposed": ("aten.conv_transpose2d.input", (2, 4, 3, 3), {}),
    "transposed and grouped": ("aten.conv_transpose2d.input", (2, 2, 3, 3), {"groups": 2}),
}


def uneven(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.exp(
        2 * torch.randn(shape[0], shape[1], *[1] * (len(shape) - 2), generator=generator)
    )


def pair(first: str = "convolution", between: str = "relu", second: str = "convolution", bias: bool = True):
    b = GraphBuilder()
    op, shape, attributes = FIRST[first]
    biases = [b.constant("bias", uneven(4, 1)[:, 0])] if bias else []
    value = b.op(op, b.input("x", f32[2, 2, 6, 6]), b.constant("first", uneven(*shape)), *biases, **attributes)
    for name, options in BETWEEN[between]:
        value = b.op(name, value, **options)
    op, shape, attributes = SECOND[second]
    return b.outputs(b.op(op, value, b.constant("second", uneven(*shape, seed=1)), **attributes))


def equalized(graph):
    return Runner().run(graph, Pipeline(EqualizeLayers(), FoldConstants(), assume=EqualizeLayers.needs)).graph


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("bias", [False, True])
def test_the_model_stays_the_same_for_every_kind_of_layer(first, second, bias):
    graph = pair(first, "relu", second, bias)
    result = assert_effect(EqualizeLayers(), graph, random_inputs(graph))
    assert result.records[0].statistics == {"pairs": 1}


@pytest.mark.parametrize("between", BETWEEN)
def test_the_model_stays_the_same_for_what_may_stand_between(between):
    graph = pair(between=between)
    assert_effect(EqualizeLayers(), graph, random_inputs(graph))


def test_both_sides_of_a_channel_have_the_mean_range_of_both():
    graph = pair()
    before = {name: graph.constants[name].tensor for name in ("first", "second")}
    made = equalized(graph)
    first, second = (node.operands["weight"].constant.tensor for node in made.nodes if node.op.short_name == "conv2d")
    out_range = before["first"].abs().amax((1, 2, 3))
    in_range = before["second"].abs().amax((0, 2, 3))
    torch.testing.assert_close(first.abs().amax((1, 2, 3)), (out_range * in_range).sqrt())
    torch.testing.assert_close(second.abs().amax((0, 2, 3)), (out_range * in_range).sqrt())


def test_a_chain_settles():
    b = GraphBuilder()
    value = b.input("x", f32[2, 6])
    weights = [uneven(6, 6, seed=seed) for seed in range(4)]
    for seed, weight in enumerate(weights):
        value = b.aten.relu(b.aten.linear(value, b.constant(f"w{seed}", weight)))
    graph = b.outputs(value)
    assert_effect(EqualizeLayers(iterations=200, tolerance=1e-6), graph, random_inputs(graph))
    made = (
        Runner()
        .run(
            graph,
            Pipeline(EqualizeLayers(iterations=200, tolerance=1e-6), FoldConstants(), assume=EqualizeLayers.needs),
        )
        .graph
    )
    tensors = [node.operands["weight"].constant.tensor.abs() for node in made.nodes if node.op.short_name == "linear"]
    for first, second in itertools.pairwise(tensors):
        torch.testing.assert_close(first.amax(1), second.amax(0), rtol=1e-3, atol=0)


@few
@given(layer_graphs())
def test_any_layers_stay_the_same_after_folding(graph):
    folded = Runner().run(graph, Pipeline(FoldBatchNorm(), assume=FoldBatchNorm.needs)).graph
    assert_effect(EqualizeLayers(), folded, random_inputs(folded), changes=False)


@fewer
@given(graphs(with_literals=False).map(with_own_names))
def test_it_holds_on_graphs_that_were_not_made_for_it(graph):
    assert_effect(EqualizeLayers(), graph, random_inputs(graph), changes=False)


def reports(graph) -> str:
    result = Runner().run(graph, Pipeline(EqualizeLayers(), assume=EqualizeLayers.needs))
    assert result.records[0].statistics == {}
    return "\n".join(str(report) for report in result.records[0].reports)


def test_what_does_not_pass_a_scale_is_left_with_a_reason():
    b = GraphBuilder()
    made = b.aten.linear(b.input(), b.constant("w", uneven(4, 4)))
    value = b.aten.sigmoid(made)
    graph = b.outputs(b.aten.linear(value, b.constant("v", uneven(3, 4))))
    assert "sigmoid after it does not commute with a scale" in reports(graph)


def test_a_value_that_others_read_is_left_with_a_reason():
    b = GraphBuilder()
    value = b.aten.relu(b.aten.linear(b.input(), b.constant("w", uneven(4, 4))))
    graph = b.outputs(b.aten.linear(value, b.constant("v", uneven(3, 4))), value)
    assert "is read by several ops" in reports(graph)


def test_a_weight_that_others_read_is_left_with_a_reason():
    b = GraphBuilder()
    weight = b.constant("w", uneven(4, 4))
    value = b.aten.relu(b.aten.linear(b.input(), weight))
    graph = b.outputs(b.aten.linear(value, weight))
    assert "read by other ops too" in reports(graph)


def test_channels_without_weights_are_left():
    b = GraphBuilder()
    first, second = uneven(4, 4), uneven(3, 4)
    first[1], second[:, 2] = 0.0, 0.0
    value = b.aten.relu(b.aten.linear(b.input(), b.constant("w", first)))
    graph = b.outputs(b.aten.linear(value, b.constant("v", second)))
    assert_effect(EqualizeLayers(), graph, random_inputs(graph))


@frozen
class ForgetBias(EqualizeLayers):
    """Scales the weight and not the bias."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in graph.nodes:
            bias = node.operand("bias")
            if bias is not None and bias.node is not None:
                rewriter.set_operand(node, "bias", bias.node.operands["input"])


@frozen
class ThroughSigmoid(EqualizeLayers):
    """Puts an op that does not pass scales into the middle of a pair."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        relu = next(node for node in graph.nodes if node.op.short_name == "relu")
        made = rewriter.insert_before(relu, "aten.sigmoid", {"self": relu.operands["self"]})
        rewriter.set_operand(relu, "self", made.result)


@pytest.mark.parametrize("wrong", [ForgetBias(), ThroughSigmoid()], ids=lambda each: type(each).__name__)
def test_the_harness_rejects_what_is_wrong(wrong):
    graph = pair()
    with pytest.raises(AssertionError, match="moved output 0"):
        assert_effect(wrong, graph, random_inputs(graph))

"""Folding of norm weights: which norms lose their weights, which keep them, and that the model stays the same."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from hypothesis import given, settings

from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.fold_norm_weights import FoldNormWeights
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, assert_idempotent, f16, f32, i64, op_names
from tests.ir.strategies import graphs, random_inputs
from tests.properties.layer_graphs import with_own_names
from tests.properties.transformer_graphs import CHANNELS, Blocks, transformer_graphs

few = settings(max_examples=30, deadline=None)
fewer = settings(max_examples=10, deadline=None)
WEIGHTED = ("layer", "rms", "written out", "written out with bias")


def normed(kind: str, bias: bool = True):
    blocks = Blocks()
    x = blocks.build.input("x", f32[2, 3, CHANNELS])
    return blocks.build.outputs(blocks.linear(blocks.norm(x, kind), 5, bias))


def folded(graph, **options):
    result = Runner().run(graph, Pipeline(FoldNormWeights(**options), FoldConstants(), assume=FoldNormWeights.needs))
    return result.graph, result.records[0]


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_before_a_linear_layer_loses_weight_and_bias(kind, bias):
    graph = normed(kind, bias)
    assert_effect(FoldNormWeights(), graph, random_inputs(graph))
    made, record = folded(graph)
    assert record.reports == []
    norms = [node for node in made.nodes if node.op.family in ("layer_norm", "rms_norm")]
    assert all(node.operand("weight") is None and node.operand("bias") is None for node in norms)
    if not norms:
        assert op_names(made) == ["pow", "mean", "add", "rsqrt", "mul", "linear"]


def test_the_new_weight_is_the_product_with_the_weight_of_the_norm():
    graph = normed("rms", bias=False)
    gain, weight = (graph.constants[name].tensor for name in ("gain1", "c2"))
    made, _ = folded(graph)
    (linear,) = (node for node in made.nodes if node.op.family == "linear")
    torch.testing.assert_close(linear.operands["weight"].constant.tensor, weight * gain, rtol=0, atol=0)


@few
@given(transformer_graphs())
def test_folding_moves_outputs_of_transformers_by_rounding_only(graph):
    assert_effect(FoldNormWeights(), graph, random_inputs(graph), changes=False)


@fewer
@given(graphs(with_literals=False).map(with_own_names))
def test_it_holds_on_graphs_that_were_not_made_for_it(graph):
    assert_effect(FoldNormWeights(), graph, random_inputs(graph), changes=False)


@fewer
@given(transformer_graphs())
def test_what_one_run_leaves_another_run_leaves_too(graph):
    assert_idempotent(FoldNormWeights(), graph)


def test_weights_are_folded_into_products_with_matrices():
    blocks = Blocks(has_matrices=True)
    normed = blocks.norm(blocks.build.input("x", f32[2, 3, CHANNELS]), "layer")
    graph = blocks.build.outputs(blocks.linear(normed, 5, True))
    _, record = folded(graph)
    assert record.statistics == {"folded": 1}
    assert_effect(FoldNormWeights(), graph, random_inputs(graph))


def test_the_bias_of_a_norm_stays_before_a_product_without_bias():
    blocks = Blocks(has_matrices=True)
    normed = blocks.norm(blocks.build.input("x", f32[2, 3, CHANNELS]), "layer")
    assert "matmul has no bias that could hold that of the norm" in reasons(
        blocks.build.outputs(blocks.linear(normed, 5))
    )


def reasons(graph, **options) -> str:
    _, record = folded(graph, **options)
    assert "folded" not in record.statistics
    return "\n".join(map(str, record.reports))


def test_a_norm_that_another_op_reads_keeps_its_weight_with_a_reason():
    blocks = Blocks()
    value = blocks.norm(blocks.build.input("x", f32[2, 3, CHANNELS]), "rms")
    graph = blocks.build.outputs(blocks.linear(value, 5), blocks.build.aten.relu(value))
    assert "relu (aten.relu) reads it, and is not linear in single channels" in reasons(graph)


def test_a_norm_that_is_an_output_keeps_its_weight_with_a_reason():
    blocks = Blocks()
    value = blocks.norm(blocks.build.input("x", f32[2, 3, CHANNELS]), "rms")
    assert "rms_norm is an output of the graph" in reasons(blocks.build.outputs(blocks.linear(value, 5), value))


def test_a_computed_weight_is_left_with_a_reason():
    build = GraphBuilder()
    value = build.aten.rms_norm(build.input("x", f32[2, 4]), [4], build.constant("gain", torch.rand(4)))
    weight = build.aten.relu(build.input("w", f32[3, 4]))
    assert "computed by the model" in reasons(build.outputs(build.aten.linear(value, weight)))


def test_a_shared_weight_is_split_unless_the_option_says_otherwise():
    build = GraphBuilder()
    weight = build.constant("weight", torch.randn(6, 4))
    x = build.aten.embedding(weight, build.input("ids", i64[3]))
    value = build.aten.rms_norm(x, [4], build.constant("gain", torch.rand(4)))
    graph = build.outputs(build.aten.linear(value, weight))
    assert "embedding uses the weight of linear too" in reasons(graph, split_shared=False)
    _, record = folded(graph)
    assert record.statistics["folded"] == 1


def test_a_norm_in_another_type_than_the_layer_keeps_its_weight():
    build = GraphBuilder()
    value = build.aten.rms_norm(build.input("x", f32[2, 4]), [4], build.constant("gain", torch.rand(4)))
    half = build.aten.to.dtype(value, torch.float16, types=[f16[2, 4]])
    graph = build.outputs(build.aten.linear(half, build.constant("w", torch.randn(3, 4).half())))
    assert "float16" in reasons(graph)


def test_a_weight_reaches_channels_that_a_reshape_joins():
    build = GraphBuilder()
    gain, bias = (build.constant(name, torch.rand(4)) for name in ("gain", "bias"))
    value = build.aten.layer_norm(build.input("x", f32[2, 3, 4]), [4], gain, bias)
    joined = build.aten.reshape(value, [2, 12])
    graph = build.outputs(build.aten.linear(joined, build.constant("w", torch.randn(5, 12))))
    assert_effect(FoldNormWeights(), graph, random_inputs(graph))


@frozen
class WithWrongSign(FoldNormWeights):
    """Subtracts what the bias of the norm becomes."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in list(graph.nodes):
            if node.op.name == "fold.input_shift_bias":
                negated = rewriter.insert_before(node, "aten.neg", {"self": node.operands["shift"]})
                rewriter.set_operand(node, "shift", negated.result)


@frozen
class FoldTwice(FoldNormWeights):
    """Folds the weight and leaves it in the norm."""

    def run(self, graph, rewriter, context):
        weights = {node: node.operand("weight") for node in graph.nodes if node.op.family == "layer_norm"}
        super().run(graph, rewriter, context)
        for node, weight in weights.items():
            rewriter.set_operand(node, "weight", weight)


@pytest.mark.parametrize("wrong", [WithWrongSign(), FoldTwice()], ids=lambda each: type(each).__name__)
def test_the_harness_rejects_what_is_wrong(wrong):
    graph = normed("layer")
    with pytest.raises(AssertionError, match="moved output 0"):
        assert_effect(wrong, graph, random_inputs(graph))

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from hypothesis import given, settings

from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, assert_idempotent, f32
from tests.ir.strategies import graphs, random_inputs
from tests.properties.layer_graphs import STORED_FORMS, batch_norm, layer_graphs, stored_weight, with_own_names

GENERAL = ("convolution", "batch_norm", "linear", "activation", "add", "transpose")
few = settings(max_examples=30, deadline=None)
fewer = settings(max_examples=10, deadline=None)


@few
@given(layer_graphs())
def test_folding_norms_into_dense_weights_moves_outputs_by_rounding_only(graph):
    assert_effect(FoldBatchNorm(), graph, random_inputs(graph), changes=False)


@few
@given(layer_graphs(largest=2, forms=STORED_FORMS))
def test_folding_norms_into_stored_weights_moves_outputs_by_rounding_only(graph):
    result = assert_effect(FoldBatchNorm(), graph, random_inputs(graph), changes=False)
    stored = {node.op.name for node in graph.nodes if node.op.dialect == "quant"}
    assert stored <= {node.op.name for node in result.graph.nodes}, "a stored weight was expanded"


@fewer
@given(layer_graphs(forms=STORED_FORMS))
def test_without_splitting_a_shared_weight_stays_one_weight(graph):
    result = assert_effect(FoldBatchNorm(split_shared=False), graph, random_inputs(graph), changes=False)
    shared = [c.name for c in graph.constants.values() if "weight" in c.name and len(c.value.users) > 1]
    for name in shared:
        users = result.graph.constants[name].value.users
        assert all(user.op.dialect == "aten" for user in users)


@fewer
@given(graphs(only=GENERAL, with_literals=False).map(with_own_names))
def test_folding_holds_on_graphs_that_were_not_made_for_it(graph):
    assert_effect(FoldBatchNorm(), graph, random_inputs(graph), changes=False)


@fewer
@given(layer_graphs(forms=STORED_FORMS))
def test_what_one_run_leaves_another_run_leaves_too(graph):
    assert_idempotent(FoldBatchNorm(), graph)


@fewer
@given(layer_graphs())
def test_every_norm_is_folded_or_has_a_reason(graph):
    norms = [node for node in graph.nodes if node.op.name == "aten.batch_norm"]
    result = assert_effect(FoldBatchNorm(), graph, random_inputs(graph), changes=False)
    left = [node.name for node in result.graph.nodes if node.op.name == "aten.batch_norm"]
    record = result.record("fold-batch-norm")
    assert record.statistics.get("folded", 0) == len(norms) - len(left)
    assert len(record.reports) == len(left)


@fewer
@given(layer_graphs(forms=STORED_FORMS))
def test_folded_expressions_evaluate_to_constants_without_changing_a_bit(graph):
    folded = Runner().run(graph, Pipeline(FoldBatchNorm(), assume=FoldBatchNorm.needs)).graph
    result = assert_effect(FoldConstants(), folded, random_inputs(graph), changes=False)
    assert not any(node.op.dialect == "fold" for node in result.graph.nodes)


# The harness must reject passes that are wrong.


@frozen
class FoldWithoutEps(FoldBatchNorm):
    """Forgets what keeps the variance away from zero."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in graph.nodes:
            if node.op.name == "fold.batch_norm_factor":
                rewriter.set_attribute(node, "eps", 0.0)


@frozen
class FoldWithWrongSign(FoldBatchNorm):
    """Adds the mean instead of subtracting it."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in list(graph.nodes):
            if node.op.name == "fold.batch_norm_bias":
                mean = rewriter.insert_before(node, "aten.neg", {"self": node.operands["running_mean"]})
                rewriter.set_operand(node, "running_mean", mean.result)


@frozen
class FoldInWrongOrder(FoldBatchNorm):
    """Gives each output channel the factor of another."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in graph.nodes:
            if node.op.name == "fold.scale_axis":
                turned = rewriter.insert_before(node, "aten.flip", {"self": node.operands["factor"]}, {"dims": [0]})
                rewriter.set_operand(node, "factor", turned.result)


def convolution_with_norm(form):
    generator = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    weight = stored_weight(b, torch.randn(4, 4, 3, 3, generator=generator) / 6, 0, form)
    convolved = b.aten.conv2d(b.input("x", f32[2, 4, 5, 5]), weight)
    names = ("weight", "bias", "running_mean", "running_var")
    parameters = {name: b.constant(name, torch.rand(4, generator=generator) + 0.1, "buffer") for name in names}
    return b.outputs(batch_norm(b, convolved, **parameters))


@pytest.mark.parametrize("form", STORED_FORMS[:-1])
def test_the_harness_accepts_the_right_fold(form):
    graph = convolution_with_norm(form)
    result = assert_effect(FoldBatchNorm(), graph, random_inputs(graph))
    assert not any(node.op.name == "aten.batch_norm" for node in result.graph.nodes)


@pytest.mark.parametrize("wrong", [FoldWithoutEps(), FoldWithWrongSign(), FoldInWrongOrder()])
@pytest.mark.parametrize("form", ["dense", "int8_per_channel", "int8_table", "table_per_channel"])
def test_the_harness_rejects_a_fold_that_is_wrong(wrong, form):
    graph = convolution_with_norm(form)
    with pytest.raises(AssertionError, match="moved output 0"):
        assert_effect(wrong, graph, random_inputs(graph))

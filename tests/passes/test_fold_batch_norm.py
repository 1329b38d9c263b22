from __future__ import annotations

import re

import pytest
import torch

from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import run_pass
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, f32, op_names
from tests.ir.strategies import random_inputs
from tests.passes.quantization_graphs import convolution, image, random, run
from tests.properties.layer_graphs import STORED_FORMS, batch_norm, stored_weight


def norm(b, x, **attributes):
    channels = x.tensor_type.shape[1]
    parameters = {
        "weight": b.constant("gamma", random(channels)),
        "bias": b.constant("beta", random(channels)),
        "running_mean": b.constant("mean", random(channels), "buffer"),
        "running_var": b.constant("var", random(channels).abs() + 0.1, "buffer"),
    }
    return batch_norm(b, x, **parameters, **attributes)


def ops_after(b, *outputs):
    """The ops that are left for a backend."""
    return op_names(run(b.outputs(*outputs), FoldBatchNorm(), FoldConstants()))


def reasons(b, *outputs):
    """Why norms stay."""
    return [str(report) for report in run_pass(FoldBatchNorm(), b.outputs(*outputs)).record("fold-batch-norm").reports]


def test_a_folded_norm_leaves_one_convolution_and_nothing_around_it():
    b = GraphBuilder()
    assert ops_after(b, norm(b, convolution(b, image(b)))) == ["conv2d"]


def test_the_folded_tensors_are_expressions_over_the_parameters_until_constants_are_folded():
    b = GraphBuilder()
    graph = run(b.outputs(norm(b, convolution(b, image(b), "conv"))), FoldBatchNorm())
    assert op_names(graph) == ["batch_norm_factor", "scale_axis", "batch_norm_bias", "conv2d"]
    assert {"conv.weight", "conv.bias", "gamma", "beta", "mean", "var"} == set(graph.constants)


def test_the_folded_weight_is_the_formula():
    b = GraphBuilder()
    graph = run(b.outputs(norm(b, convolution(b, image(b), "conv"))), FoldBatchNorm(), FoldConstants())
    gamma, beta, mean = random(4), random(4), random(4)
    factor = gamma / (random(4).abs() + 0.1 + 1e-3).sqrt()
    conv = graph.node("conv")
    expected = random(4, 4, 3, 3) * factor.reshape(-1, 1, 1, 1)
    assert torch.allclose(conv.operands["weight"].constant.tensor, expected, rtol=1e-6)
    assert torch.allclose(conv.operands["bias"].constant.tensor, (random(4) - mean) * factor + beta, atol=1e-6)


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "after a skip"])
def test_a_norm_behind_a_layer_scale_stays_and_says_so(skip):
    """Folding it into the convolution beyond the scale would forget the scale."""
    b = GraphBuilder()
    x = image(b)
    scaled = b.aten.mul.Tensor(convolution(b, x, "conv"), b.constant("layer_scale", random(4, 1, 1)))
    graph = b.outputs(norm(b, b.aten.add.Tensor(scaled, x) if skip else scaled))
    result = assert_effect(FoldBatchNorm(), graph, random_inputs(graph), changes=False)
    assert op_names(result.graph) == op_names(graph)
    assert len(result.record("fold-batch-norm").reports) == 1


def test_the_convolution_comes_from_both_places_then():
    b = GraphBuilder()
    graph = run(b.outputs(norm(b, convolution(b, image(b), "conv"))), FoldBatchNorm())
    paths = [origin.module_path for origin in graph.node("conv").location.origins]
    assert paths == ["block.conv", "block.batch_norm"]


def test_norms_in_a_row_all_fold():
    b = GraphBuilder()
    assert ops_after(b, norm(b, norm(b, convolution(b, image(b))))) == ["conv2d"]
    b = GraphBuilder()
    assert ops_after(b, b.aten.conv2d(norm(b, norm(b, image(b))), b.constant("w", random(4, 4, 3, 3)))) == ["conv2d"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_norm_before_a_layer_folds_where_nothing_is_padded(groups):
    b = GraphBuilder()
    weight = b.constant("weight", random(4, 4 // groups, 3, 3))
    value = b.aten.conv2d(norm(b, image(b)), weight, groups=groups)
    assert ops_after(b, value) == ["conv2d"]


@pytest.mark.parametrize("padding", [(1, 1), (0, 1)])
def test_a_norm_before_padding_stays_and_says_why(padding):
    b = GraphBuilder()
    value = b.aten.conv2d(norm(b, image(b)), b.constant("weight", random(4, 4, 3, 3)), padding=padding)
    (reason,) = reasons(b, value)
    assert "pads with zeros, which the norm would move" in reason


def test_a_norm_between_two_layers_goes_into_the_first():
    b = GraphBuilder()
    first = convolution(b, image(b), "first")
    value = b.aten.conv2d(norm(b, first), b.constant("last.weight", random(4, 4, 1, 1)), name="last")
    graph = run(b.outputs(value), FoldBatchNorm(), FoldConstants())
    assert graph.node("last").operands["weight"].constant.name == "last.weight"


def test_a_norm_whose_input_others_read_goes_into_the_layer_after_it():
    b = GraphBuilder()
    first = convolution(b, image(b), "first")
    value = b.aten.conv2d(norm(b, first), b.constant("last.weight", random(4, 4, 1, 1)), name="last")
    assert ops_after(b, value, first) == ["conv2d", "conv2d"]


REASONS = {
    "nothing to fold into": (
        lambda b: norm(b, b.aten.relu(image(b))),
        "no convolution or linear layer before it",
    ),
    "statistics of the batch": (
        lambda b: norm(b, convolution(b, image(b)), training=True),
        r"statistics of the batch \(training=True\)",
    ),
    "another axis": (
        lambda b: norm(b, b.aten.linear(b.input("x", f32[2, 3, 8]), b.constant("w", random(5, 8)))),
        "normalizes axis 1, the features of linear are on the last axis",
    ),
    "weight of the model's own making": (
        lambda b: norm(b, b.aten.conv2d(image(b), b.input("weight", f32[4, 4, 3, 3]))),
        "weight of conv2d is computed by the model",
    ),
    "transposed weight in compressed form": (
        lambda b: norm(
            b,
            b.aten.conv2d(
                image(b),
                b.aten.transpose.int(stored_weight(b, random(4, 4, 3, 3), 0, "int8_table"), 0, 1),
            ),
        ),
        "stored in compressed form and goes through aten.transpose.int",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_norm_that_stays_has_a_reason_and_the_graph_is_as_before(case):
    build, expected = REASONS[case]
    b = GraphBuilder()
    graph = b.outputs(build(b))
    result = run_pass(FoldBatchNorm(), graph)
    (report,) = result.record("fold-batch-norm").reports
    assert not result.changed
    assert result.graph == graph
    assert re.search(expected, str(report)), report


def test_a_convolution_that_two_norms_read_keeps_them_with_a_reason():
    b = GraphBuilder()
    conv = convolution(b, image(b), "conv")
    first, second = reasons(b, norm(b, conv), norm(b, conv))
    assert "batch_norm_1 reads the output of conv too" in first
    assert "batch_norm reads the output of conv too" in second


def test_a_weight_that_two_layers_share_is_split_or_left_alone():
    def build():
        b = GraphBuilder()
        x, weight = image(b), b.constant("weight", random(4, 4, 3, 3))
        return b.outputs(norm(b, b.aten.conv2d(x, weight)), b.aten.conv2d(x, weight))

    split = run(build(), FoldBatchNorm(), FoldConstants())
    assert set(split.constants) == {"weight", "weight_folded", "conv2d_bias"}
    result = run_pass(FoldBatchNorm(split_shared=False), build())
    assert "uses the weight of conv2d too" in str(result.record("fold-batch-norm").reports[0])


@pytest.mark.parametrize("form", ["int8_table", "int8_per_tensor", "table"])
def test_a_scale_for_the_whole_weight_becomes_one_for_each_channel(form):
    b = GraphBuilder()
    weight = stored_weight(b, random(4, 4, 3, 3), 0, form)
    graph = run(b.outputs(norm(b, b.aten.conv2d(image(b), weight))), FoldBatchNorm(), FoldConstants())
    scaled = graph.node("conv2d").operands["weight"].node
    assert scaled.op.name == "quant.blockwise_shift_scale"
    assert scaled.operands["scale"].constant.tensor.shape == (4, 1, 1, 1)


def test_a_table_for_each_channel_takes_the_factor_itself():
    b = GraphBuilder()
    weight = stored_weight(b, random(4, 4, 3, 3), 0, "table_per_channel")
    graph = run(b.outputs(norm(b, b.aten.conv2d(image(b), weight))), FoldBatchNorm(), FoldConstants())
    assert op_names(graph) == ["lut_to_dense", "conv2d"]


def test_scales_of_a_grouped_transposed_weight_become_one_for_each_output_channel():
    b = GraphBuilder()
    weight = stored_weight(b, random(4, 3, 3, 3), 1, "int8_table")
    value = b.aten.conv_transpose2d.input(image(b), weight, groups=2)
    graph = run(b.outputs(norm(b, value)), FoldBatchNorm(), FoldConstants())
    scale = graph.node("conv_transpose2d").operands["weight"].node.operands["scale"].constant
    assert scale.tensor.shape == (2, 3, 1, 1)


@pytest.mark.parametrize("form", STORED_FORMS)
def test_nothing_that_expanded_a_stored_weight_is_left_unread(form):
    b = GraphBuilder()
    weight = stored_weight(b, random(4, 4, 3, 3), 0, form)
    graph = run(b.outputs(norm(b, b.aten.conv2d(image(b), weight))), FoldBatchNorm())
    assert "batch_norm" not in op_names(graph)
    assert [node.name for node in graph.nodes if node.is_dead] == []

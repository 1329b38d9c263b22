from __future__ import annotations

import math

import pytest
import torch

from graphpress.ir.errors import GraphpressError
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.config import (
    ModuleQuantizerConfig,
    OpQuantizerConfig,
    PerBlockGranularity,
    QuantizationScheme,
    QuantizationSpec,
    QuantizerConfig,
    SkippedWeight,
    SkipReason,
    default_weight_quantization_spec,
)
from graphpress.passes.framework import run_pass
from graphpress.passes.framework.testing import GraphBuilder, f32
from graphpress.passes.weights.errors import QuantizationError
from tests.passes.quantization_graphs import assigned, convolution, image, places, points, random, run

INT4 = QuantizationSpec(dtype="int4")


def conv_relu():
    b = GraphBuilder()
    return b.outputs(b.aten.relu(convolution(b, image(b), "conv"), name="relu"))


def two_layers():
    b = GraphBuilder()
    value = convolution(b, image(b), "conv")
    return b.outputs(b.aten.linear(value, b.constant("linear.weight", random(4, 8)), name="linear"))


def configured(**entries):
    return QuantizerConfig(global_config=ModuleQuantizerConfig(**entries))


# points


def test_a_group_is_quantized_at_its_input_its_weight_and_its_output_and_nowhere_between():
    assert places(assigned(conv_relu())) == [("conv", "input"), ("conv", "weight"), ("relu", "output")]


def test_a_bias_is_not_quantized():
    assert not [place for place in places(assigned(conv_relu())) if place[1] == "bias"]


def test_constant_operands_of_arithmetic_are_not_quantized():
    b = GraphBuilder()
    graph = b.outputs(b.aten.add.Tensor(image(b), b.constant("offset", random(1, 4, 1, 1)), name="add"))
    assert places(assigned(graph)) == [("add", "output"), ("add", "self")]


def test_a_matrix_in_a_product_is_a_weight_and_has_a_scale_for_each_output_column():
    b = GraphBuilder()
    graph = b.outputs(b.aten.matmul(b.input("x", f32[2, 8]), b.constant("weight", random(8, 5)), name="matmul"))
    found = points(assigned(graph))
    assert sorted(found) == [("matmul", "other"), ("matmul", "output"), ("matmul", "self")]
    assert found["matmul", "other"].is_state
    assert found["matmul", "other"].block_size == (8, 1)


@pytest.mark.parametrize(
    ("op", "shape", "block"),
    [
        ("aten.conv2d", (4, 4, 3, 3), (1, 4, 3, 3)),
        ("aten.conv_transpose2d.input", (4, 6, 3, 3), (4, 1, 3, 3)),
    ],
)
def test_a_weight_has_a_scale_for_each_output_channel(op, shape, block):
    b = GraphBuilder()
    graph = b.outputs(b.op(op, image(b), b.constant("weight", random(*shape)), name="conv"))
    assert points(assigned(graph))["conv", "weight"].block_size == block


def test_both_operands_of_a_product_of_activations_are_quantized():
    b = GraphBuilder()
    x, y = b.input("x", f32[2, 4, 4]), b.input("y", f32[2, 4, 4])
    graph = b.outputs(b.aten.matmul(x, y, name="matmul"))
    assert places(assigned(graph)) == [("matmul", "other"), ("matmul", "output"), ("matmul", "self")]


def test_integers_are_not_quantized():
    b = GraphBuilder()
    tokens = b.input("tokens", b.aten.argmax(image(b), 1).type)
    graph = b.outputs(b.aten.embedding(b.constant("table", random(9, 4)), tokens, name="embedding"))
    found = points(assigned(graph))
    assert sorted(found) == [("embedding", "output"), ("embedding", "weight")]
    assert found["embedding", "weight"].is_state


def test_ops_that_only_move_values_have_passive_points():
    b = GraphBuilder()
    graph = assigned(b.outputs(b.aten.max_pool2d(image(b), (2, 2), name="pool")))
    notes = [point for node in graph.nodes for note in node.annotations.values() for point in note.points]
    assert [point.is_passive for point in notes] == [True, True]


def test_a_weight_that_is_computed_from_constants_is_quantized_where_the_layer_reads_it():
    b = GraphBuilder()
    weight = b.aten.mul.Tensor(b.constant("conv.weight", random(4, 4, 3, 3)), b.constant("gain", random(1)))
    graph = b.outputs(b.aten.conv2d(image(b), weight, name="conv"))
    assert places(assigned(graph)) == [("conv", "input"), ("conv", "output"), ("conv", "weight")]


def test_a_weight_that_is_compressed_already_is_left_alone():
    b = GraphBuilder()
    indices = b.constant("indices", torch.zeros(4, 4, 3, 3, dtype=torch.uint8), "buffer")
    weight = b.quant.lut_to_dense(indices, b.constant("lut", random(1, 1, 1, 1, 16, 1), "buffer"))
    graph = b.outputs(b.aten.conv2d(image(b), weight, name="conv"))
    assert places(assigned(graph)) == [("conv", "input"), ("conv", "output")]


# known ranges


@pytest.mark.parametrize(
    ("op", "scheme", "float_range"),
    [
        ("aten.relu", "asymmetric", (None, None)),
        ("aten.relu6", "asymmetric", (None, None)),
        ("aten.hardsigmoid", "asymmetric", (None, None)),
        ("aten.softplus", "asymmetric", (None, None)),
        ("aten.gelu", "asymmetric", (None, None)),
        ("aten.silu", "asymmetric", (None, None)),
        ("aten.hardswish", "asymmetric", (None, None)),
        ("aten.elu", "asymmetric", (None, None)),
        ("aten.sigmoid", "asymmetric", (0.0, 255 / 256)),
        ("aten.tanh", "asymmetric", (-1.0, 2 * 255 / 256 - 1)),
        ("aten.leaky_relu", "symmetric", (None, None)),
    ],
)
def test_the_range_an_activation_is_known_to_have_shapes_its_spec(op, scheme, float_range):
    b = GraphBuilder()
    found = points(assigned(b.outputs(b.op(op, convolution(b, image(b), "conv"), name="act"))))
    spec = found["act", "output"].spec
    assert (spec.qscheme, spec.float_range) == (QuantizationScheme(scheme), float_range)
    assert found["act", "output"].asked.qscheme is QuantizationScheme.SYMMETRIC


@pytest.mark.parametrize(
    ("activation", "gate", "scheme"),
    [
        ("aten.silu", "aten.sigmoid", "asymmetric"),
        ("aten.relu", "aten.hardsigmoid", "asymmetric"),
        ("aten.tanh", "aten.sigmoid", "symmetric"),
        ("aten.silu", "aten.silu", "symmetric"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_gated_activation_ends_where_the_activation_does(activation, gate, scheme, is_first):
    b = GraphBuilder()
    value = b.op(activation, convolution(b, image(b), "conv"))
    squeezed = b.op("aten.mean.dim", value, [2, 3], keepdim=True)
    gating = b.op(gate, convolution(b, squeezed, "excite"))
    operands = (value, gating) if is_first else (gating, value)
    graph = assigned(b.outputs(b.op("aten.mul.Tensor", *operands, name="gated")))
    assert points(graph)["gated", "output"].spec.qscheme is QuantizationScheme(scheme)


@pytest.mark.parametrize(
    ("activation", "gain", "training", "scheme"),
    [
        ("aten.relu", (0.5, 0.1, 2, 1), False, "asymmetric"),
        ("aten.gelu", (0.5, 0.1, 2, 1), False, "asymmetric"),
        ("aten.relu", None, False, "asymmetric"),
        ("aten.relu", (0.5, -0.1, 2, 1), False, "symmetric"),
        ("aten.relu", (0.5, 0.1, 2, 1), True, "symmetric"),
        ("aten.tanh", (0.5, 0.1, 2, 1), False, "symmetric"),
    ],
)
def test_a_batch_norm_of_values_that_end_at_zero_ends_little_below(activation, gain, training, scheme):
    b = GraphBuilder()
    weight = None if gain is None else b.constant("gain", torch.tensor(gain, dtype=torch.float32))
    value = b.aten.max_pool2d(b.op(activation, convolution(b, image(b), "conv")), (2, 2))
    mean, variance = b.constant("mean", random(4), "buffer"), b.constant("variance", torch.ones(4), "buffer")
    norm = b.op("aten.batch_norm", value, weight, None, mean, variance, training, 0.1, 1e-5, False, name="norm")
    found = points(assigned(b.outputs(convolution(b, norm, "next"))))
    assert found["norm", "output"].spec.qscheme is QuantizationScheme(scheme)


@pytest.mark.parametrize(
    ("bounds", "scheme", "float_range"),
    [
        ({"min": 0.0, "max": 6.0}, "asymmetric", (None, None)),
        ({"min": 0.0, "max": math.inf}, "asymmetric", (None, None)),
        ({"min": 0.0}, "asymmetric", (None, None)),
        ({"min": 0.001, "max": math.inf}, "asymmetric", (None, None)),
        ({"min": -1.0, "max": math.inf}, "symmetric", (None, None)),
        ({"min": -math.inf, "max": 1.0}, "symmetric", (None, None)),
        ({"min": -math.inf, "max": math.inf}, "symmetric", (None, None)),
    ],
)
def test_a_clamp_at_infinity_has_no_end_there(bounds, scheme, float_range):
    b = GraphBuilder()
    found = points(assigned(b.outputs(b.aten.clamp(convolution(b, image(b), "conv"), **bounds, name="act"))))
    spec = found["act", "output"].spec
    assert (spec.qscheme, spec.float_range) == (QuantizationScheme(scheme), float_range)


@pytest.mark.parametrize(
    ("op", "scheme", "float_range"),
    [
        ("aten.tanh", "symmetric", (None, None)),
        ("aten.softmax.int", "asymmetric", (None, None)),
        ("aten.sigmoid", "asymmetric", (0.0, 255 / 256)),
    ],
)
def test_a_tanh_or_softmax_that_is_no_layers_has_the_range_of_the_data(op, scheme, float_range):
    b = GraphBuilder()
    attributes = {"dim": 1} if op == "aten.softmax.int" else {}
    found = points(assigned(b.outputs(b.op(op, b.aten.flip(image(b), dims=[1]), name="act", **attributes))))
    spec = found["act", "output"].spec
    assert (spec.qscheme, spec.float_range) == (QuantizationScheme(scheme), float_range)


def test_a_soft_cap_has_the_range_of_the_data():
    b = GraphBuilder()
    capped = b.aten.tanh(b.op("aten.div.Scalar", convolution(b, image(b), "conv"), other=30.0), name="tanh")
    spec = points(assigned(b.outputs(capped)))["tanh", "output"].spec
    assert (spec.qscheme, spec.float_range) == (QuantizationScheme.SYMMETRIC, (None, None))


def test_an_explicit_spec_for_the_op_wins_over_its_known_range():
    spec = QuantizationSpec(float_range=(-4.0, 4.0))
    op = OpQuantizerConfig(op_output_spec={"*": spec})
    found = points(assigned(conv_relu(), configured(op_type_config={"conv2d": op})))
    assert found["relu", "output"].spec == spec


# the config


def test_none_disables_everything_in_its_scope():
    assert places(assigned(conv_relu(), QuantizerConfig(global_config=None))) == []


def test_none_for_a_table_disables_that_side():
    found = places(assigned(conv_relu(), configured(op_input_spec=None, op_output_spec=None)))
    assert found == [("conv", "weight")]
    assert places(assigned(conv_relu(), configured(op_state_spec=None))) == [("conv", "input"), ("relu", "output")]


def test_an_op_type_config_covers_ops_of_that_type_only():
    config = configured(op_type_config={"linear": OpQuantizerConfig(op_state_spec={"weight": INT4})})
    found = points(assigned(two_layers(), config))
    assert found["linear", "weight"].spec == INT4
    assert found["conv", "weight"].spec != INT4


def test_an_op_type_that_is_none_is_left_whole():
    assert {node for node, _ in places(assigned(two_layers(), configured(op_type_config={"conv2d": None})))} == {
        "linear"
    }


def test_a_name_wins_over_a_type():
    of_type = OpQuantizerConfig(op_state_spec={"weight": INT4})
    of_name = OpQuantizerConfig(op_state_spec=None)
    config = configured(op_type_config={"conv2d": of_type}, op_name_config={"co.*": of_name})
    assert ("conv", "weight") not in places(assigned(two_layers(), config))


def test_a_module_name_wins_over_a_module_type_and_that_over_the_global_config():
    graph = two_layers()
    config = QuantizerConfig(
        module_type_configs={"lib.Conv2D": ModuleQuantizerConfig(op_state_spec={"weight": INT4}), "lib.Linear": None},
        module_name_configs={"block.linear": ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None)},
    )
    found = points(assigned(graph, config))
    assert found["conv", "weight"].spec == INT4
    assert [place for node, place in sorted(found) if node == "linear"] == ["weight"]


def test_operands_are_addressed_by_index_and_by_name():
    b = GraphBuilder()
    graph = b.outputs(b.aten.matmul(b.input("x", f32[2, 4, 4]), b.input("y", f32[2, 4, 4]), name="matmul"))
    by_index = points(assigned(graph, configured(op_input_spec={1: INT4}, op_output_spec=None)))
    by_name = points(assigned(graph, configured(op_input_spec={"other": INT4}, op_output_spec=None)))
    assert list(by_index) == list(by_name) == [("matmul", "other")]


def test_a_state_is_addressed_by_the_name_of_the_parameter_too():
    b = GraphBuilder()
    weight = b.constant("matrix", random(8, 5))
    graph = b.outputs(b.aten.matmul(b.input("x", f32[2, 8]), weight, name="matmul"))
    found = points(assigned(graph, configured(op_state_spec={"matrix": INT4})))
    assert found["matmul", "other"].spec == INT4


def test_names_that_match_nothing_are_an_error_with_near_names():
    config = configured(op_name_config={"convv": OpQuantizerConfig()})
    with pytest.raises(GraphpressError, match="convv"):
        assigned(conv_relu(), config)


def test_blocks_that_do_not_divide_are_an_error_that_names_every_layer_or_a_report():
    spec = QuantizationSpec(dtype="int4", granularity=PerBlockGranularity(block_size=3))
    config = configured(op_state_spec={"weight": spec})
    with pytest.raises(QuantizationError, match=r"2 weights cannot be divided[\s\S]*conv[\s\S]*linear"):
        assigned(two_layers(), config)
    assert not [p for p in places(assigned(two_layers(), config, leave_indivisible=True)) if p[1] == "weight"]


@pytest.mark.parametrize(
    ("equation", "shape", "block"),
    [("btc,cd->btd", (8, 5), (8, 1)), ("btc,dc->btd", (5, 8), (1, 8)), ("...c,cd->...d", (8, 5), (8, 1))],
)
def test_the_channels_of_an_einsum_are_those_that_only_the_weight_has(equation, shape, block):
    b = GraphBuilder()
    operands = [b.input("x", f32[2, 3, 8]), b.constant("weight", random(*shape))]
    graph = b.outputs(b.aten.einsum(equation, operands))
    assert points(assigned(graph))["einsum", "tensors[1]"].block_size == block


def test_a_weight_whose_channels_nobody_knows_is_left_with_a_report():
    b = GraphBuilder()
    operands = [b.input("x", f32[4, 8]), b.constant("weight", random(4, 8))]
    graph = run(b.outputs(b.aten.einsum("ab,ab->a", operands)), AnnotateFusion())
    record = run_pass(AssignQuantizers(), graph).record("assign-quantizers")
    assert "no default axis" in str(record.reports[0])


def test_the_weights_of_ops_that_no_group_has_are_quantized_all_the_same():
    b = GraphBuilder()
    states = [b.input(name, f32[2, 8]) for name in ("h", "c")]
    weights = [b.constant(name, random(32, 8)) for name in ("cell.weight_ih", "cell.weight_hh")]
    node = b.node("aten.lstm_cell", b.input("x", f32[2, 8]), states, *weights, name="cell")
    found = points(
        assigned(b.outputs(node.results[0]), configured(op_state_spec={"*": default_weight_quantization_spec()}))
    )
    assert {place: quantizer.block_size for place, quantizer in found.items()} == {
        ("cell", "w_ih"): (1, 8),
        ("cell", "w_hh"): (1, 8),
    }


def test_a_weight_that_the_config_does_not_name_is_skipped_with_a_record():
    b = GraphBuilder()
    states = [b.input(name, f32[2, 8]) for name in ("h", "c")]
    weights = [b.constant(name, random(32, 8)) for name in ("cell.weight_ih", "cell.weight_hh")]
    node = b.node("aten.lstm_cell", b.input("x", f32[2, 8]), states, *weights, name="cell")
    graph = run(b.outputs(node.results[0]), AnnotateFusion())
    result = run_pass(AssignQuantizers(), graph)
    assert not points(result.graph)
    assert [(each.name, each.reason) for each in result.remarks(SkippedWeight)] == [
        ("cell.weight_ih", SkipReason.UNNAMED),
        ("cell.weight_hh", SkipReason.UNNAMED),
    ]


def test_a_matrix_that_is_added_is_no_weight():
    b = GraphBuilder()
    operands = [b.constant("offset", random(2, 5)), b.input("x", f32[2, 8]), b.constant("weight", random(8, 5))]
    found = points(assigned(b.outputs(b.aten.addmm(*operands, name="addmm"))))
    assert ("addmm", "self") not in found
    assert found["addmm", "mat2"].block_size == (8, 1)


def test_the_name_of_a_parameter_wins_over_what_it_is_called_in_general():
    b = GraphBuilder()
    weight = b.constant("attention.in_proj_weight", random(5, 8))
    graph = b.outputs(b.aten.linear(b.input("x", f32[2, 8]), weight, name="linear"))
    config = configured(op_state_spec={"weight": INT4, "in_proj_weight": None})
    assert ("linear", "weight") not in points(assigned(graph, config))

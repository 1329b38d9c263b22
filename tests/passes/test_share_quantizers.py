from __future__ import annotations

import random as randomness

import pytest

from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.config import (
    ModuleQuantizerConfig,
    OpQuantizerConfig,
    QuantizationScheme,
    QuantizationSpec,
    QuantizerConfig,
)
from graphpress.passes.framework import run_pass
from graphpress.passes.framework.testing import GraphBuilder, reordered
from graphpress.passes.share_quantizers import ShareQuantizers
from tests.passes.quantization_graphs import convolution, image, points, random, run, shared


def names(graph, *wanted):
    """The quantizers at some points."""
    found = points(graph)
    return {found[place].name for place in wanted}


def branches(*activations):
    """Convolutions of one input, each with its activation (or none), concatenated and convolved again."""
    b = GraphBuilder()
    x = image(b)
    values = []
    for i, activation in enumerate(activations):
        value = convolution(b, x, f"conv{i}")
        values.append(b.op(activation, value, name=f"act{i}") if activation else value)
    return b.outputs(convolution(b, b.aten.cat(values, 1, name="cat"), "last"))


def test_what_is_made_and_what_is_read_of_it_have_one_quantizer():
    b = GraphBuilder()
    graph = shared(b.outputs(convolution(b, convolution(b, image(b), "one"), "two")))
    assert names(graph, ("one", "output"), ("two", "input")) == {"one_output"}
    assert names(graph, ("one", "input")) == {"one_input"}
    assert names(graph, ("two", "output")) == {"two_output"}


def test_a_relu_a_pool_and_a_convolution_after_it_share_one_quantizer():
    b = GraphBuilder()
    pooled = b.aten.max_pool2d(b.aten.relu(convolution(b, image(b), "one"), name="relu"), (2, 2), name="pool")
    graph = shared(b.outputs(convolution(b, pooled, "two")))
    wanted = [("relu", "output"), ("pool", "self"), ("pool", "output"), ("two", "input")]
    assert names(graph, *wanted) == {"relu_output"}
    assert points(graph)["two", "input"].spec.qscheme is QuantizationScheme.ASYMMETRIC


def test_a_sigmoid_and_a_convolution_that_meet_in_a_concatenation_have_one_floating_quantizer():
    graph = shared(branches("aten.sigmoid", None))
    wanted = [("act0", "output"), ("conv1", "output"), ("cat", "tensors[0]"), ("cat", "tensors[1]"), ("last", "input")]
    assert len(names(graph, *wanted)) == 1
    spec = points(graph)["last", "input"].spec
    assert (spec.qscheme, spec.float_range) == (QuantizationScheme.SYMMETRIC, (None, None))


def test_a_concatenation_of_relus_stays_asymmetric():
    spec = points(shared(branches("aten.relu", "aten.relu")))["last", "input"].spec
    assert (spec.qscheme, spec.float_range) == (QuantizationScheme.ASYMMETRIC, (None, None))


def test_a_concatenation_of_sigmoids_keeps_their_range():
    spec = points(shared(branches("aten.sigmoid", "aten.sigmoid")))["last", "input"].spec
    assert spec.float_range == (0.0, 255 / 256)


def test_of_a_relu_and_a_relu6_only_the_scheme_stays():
    spec = points(shared(branches("aten.relu", "aten.relu6")))["last", "input"].spec
    assert (spec.qscheme, spec.float_range) == (QuantizationScheme.ASYMMETRIC, (None, None))


def test_a_range_floats_where_an_input_of_the_model_comes_in():
    b = GraphBuilder()
    relu = b.aten.relu(convolution(b, image(b), "conv"), name="relu")
    value = b.aten.cat([relu, image(b, "y")], 1, name="cat")
    spec = points(shared(b.outputs(convolution(b, value, "last"))))["last", "input"].spec
    assert spec.qscheme is QuantizationScheme.SYMMETRIC


def test_ops_that_move_values_between_float_ops_get_no_quantizer():
    b = GraphBuilder()
    value = b.aten.flatten.using_ints(b.aten.exp(image(b), name="exp"), 1, name="flat")
    assert points(shared(b.outputs(b.aten.exp(value)))) == {}


def test_the_most_specific_entry_wins():
    spec = QuantizationSpec(dtype="uint8", qscheme="asymmetric")
    op = OpQuantizerConfig(op_input_spec={"*": spec}, op_output_spec=None)
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_name_config={"two": op}))
    b = GraphBuilder()
    graph = shared(b.outputs(convolution(b, convolution(b, image(b), "one"), "two")), config)
    assert points(graph)["one", "output"].spec == spec
    assert points(graph)["one", "output"].name == "one_output"


def test_of_equal_entries_that_of_the_maker_wins():
    made, read = QuantizationSpec(dtype="uint8"), QuantizationSpec(dtype="int4")
    entries = {
        "one": OpQuantizerConfig(op_output_spec={"*": made}),
        "two": OpQuantizerConfig(op_input_spec={"*": read}),
    }
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_name_config=entries))
    b = GraphBuilder()
    graph = shared(b.outputs(convolution(b, convolution(b, image(b), "one"), "two")), config)
    assert points(graph)["two", "input"].spec == made


@pytest.mark.parametrize("seed", range(4))
def test_where_makers_disagree_the_order_of_nodes_plays_no_part(seed):
    entries = {
        "conv0": OpQuantizerConfig(op_output_spec={"*": QuantizationSpec(dtype="uint8")}),
        "conv1": OpQuantizerConfig(op_output_spec={"*": QuantizationSpec(dtype="int4")}),
    }
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_name_config=entries))
    graph = run(branches(None, None), AnnotateFusion(), AssignQuantizers(config))
    expected = points(run(graph, ShareQuantizers()))
    assert points(run(reordered(graph, randomness.Random(seed)), ShareQuantizers())) == expected


def test_a_weight_that_two_layers_quantize_alike_has_one_quantizer():
    b = GraphBuilder()
    weight = b.constant("weight", random(4, 4, 3, 3))
    x = image(b)
    one, two = (b.aten.conv2d(x, weight, name=name) for name in ("one", "two"))
    graph = shared(b.outputs(one, two))
    assert names(graph, ("one", "weight"), ("two", "weight")) == {"one_weight"}


def test_a_weight_that_two_layers_quantize_differently_has_two():
    entries = {"two": OpQuantizerConfig(op_state_spec={"weight": QuantizationSpec(dtype="int4")})}
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_name_config=entries))
    b = GraphBuilder()
    weight = b.constant("weight", random(4, 4, 3, 3))
    x = image(b)
    one, two = (b.aten.conv2d(x, weight, name=name) for name in ("one", "two"))
    assert len(names(shared(b.outputs(one, two), config), ("one", "weight"), ("two", "weight"))) == 2


def test_groups_of_points_that_were_decided_together_are_counted():
    b = GraphBuilder()
    decided = run(
        b.outputs(convolution(b, convolution(b, image(b), "one"), "two")), AnnotateFusion(), AssignQuantizers()
    )
    record = run_pass(ShareQuantizers(), decided).records[0]
    assert record.statistics == {"components": 3}  # the input, the value between, the output

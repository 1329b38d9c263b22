from __future__ import annotations

import pytest
import torch

from graphpress.ir.dtypes import DType
from graphpress.passes.analysis.quantization_points import QuantizationPoints, QuantizerNote
from graphpress.passes.config import (
    ModuleQuantizerConfig,
    OpQuantizerConfig,
    QuantizationScheme,
    QuantizationSpec,
    QuantizerConfig,
)
from graphpress.passes.dedup_fake_quant import DedupFakeQuant
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, f32
from graphpress.passes.insert_fake_quant import InsertFakeQuant
from tests.passes.quantization_graphs import convolution, image, inserted, points, random, run, shared
from tests.properties.quantized_graphs import config_of


def quantizers(graph):
    return [node for node in graph.nodes if node.op.name == "quant.fake_quantize"]


def two_convolutions():
    b = GraphBuilder()
    return b.outputs(convolution(b, b.aten.relu(convolution(b, image(b), "one"), name="relu"), "two"))


def test_there_is_one_node_for_each_point_and_no_note_is_left():
    decided = shared(two_convolutions())
    graph = run(decided, InsertFakeQuant())
    assert len(quantizers(graph)) == len(points(decided)) == 6
    assert not any(node.annotation(QuantizationPoints) for node in graph.nodes)


def test_a_quantizer_stands_right_before_what_reads_and_right_after_what_makes():
    order = [node.name for node in inserted(two_convolutions()).nodes]
    assert order == [
        "one_input",
        "one_weight",
        "one",
        "relu",
        "relu_output",
        "relu_output_1",
        "two_weight",
        "two",
        "two_output",
    ]


def test_the_model_returns_the_quantized_value():
    graph = inserted(two_convolutions())
    assert [output.value.name for output in graph.outputs] == ["two_output"]


def test_every_reader_of_a_result_reads_the_quantized_one():
    b = GraphBuilder()
    made = convolution(b, image(b), "conv")
    graph = inserted(b.outputs(b.aten.exp(made), b.aten.sin(made), made))
    (use,) = graph.node("conv").result.uses
    assert use.user.name == "conv_output"
    assert len(graph.node("conv_output").result.uses) == 3


def norm_of_a_convolution(b):
    made = convolution(b, image(b), "conv")
    return b.aten.layer_norm(made, [8], name="norm")


def test_what_a_norm_returns_from_the_model_is_not_quantized():
    b = GraphBuilder()
    graph = inserted(b.outputs(norm_of_a_convolution(b)))
    assert [node.name for node in quantizers(graph)] == ["conv_input", "conv_weight", "conv_output"]
    assert graph.outputs[0].value.node.name == "norm"


def test_a_convolution_reads_codes_of_a_norm_that_the_model_returns_in_floats():
    b = GraphBuilder()
    norm = norm_of_a_convolution(b)
    graph = deduplicated(b.outputs(norm, convolution(b, norm, "last"), convolution(b, norm, "other")))
    assert graph.outputs[0].value.node.name == "norm"
    read = [use.user.name for use in graph.node("norm").result.uses if use.user in graph.nodes]
    assert read == ["norm_output"]
    readers = [use.user.name for use in graph.node("norm_output").result.uses]
    assert readers == ["last", "other"]


def test_a_product_reads_the_known_range_of_a_softmax_that_the_model_returns_in_floats():
    b = GraphBuilder()
    x = convolution(b, image(b), "conv")
    shares = b.op("aten.softmax.int", b.aten.sin(x), dim=-1, name="softmax")
    graph = deduplicated(b.outputs(shares, b.aten.matmul(shares, x, name="product")))
    read = graph.node("product").operands["self"].node
    assert read.annotation(QuantizerNote).quantizer.spec.qscheme is QuantizationScheme.ASYMMETRIC
    assert graph.outputs[0].value.node.name == "softmax"


def test_a_norm_is_quantized_where_only_results_are_or_where_an_entry_names_it():
    results = {"op_input_spec": None, "op_output_spec": {"*": QuantizationSpec()}}
    named = {"op_type_config": {"layer_norm": OpQuantizerConfig(op_output_spec={"*": QuantizationSpec()})}}
    for options in (results, named):
        b = GraphBuilder()
        config = QuantizerConfig(global_config=ModuleQuantizerConfig(**options))
        graph = inserted(b.outputs(norm_of_a_convolution(b)), config)
        assert graph.outputs[0].value.node.name == "norm_output"


def test_the_rows_of_an_embedding_are_quantized_for_a_sum_and_not_for_a_norm():
    b = GraphBuilder()
    rows = b.aten.argmax(image(b), 1)
    table = b.constant("table", random(9, 4))
    looked_up = b.aten.embedding(table, rows, name="embedding")
    normed = b.aten.layer_norm(looked_up, [4], name="norm")
    graph = inserted(b.outputs(normed, b.op("aten.add.Tensor", looked_up, looked_up, name="sum")))
    assert graph.node("norm").operands["input"].node.name == "embedding"
    assert {value.node.op.name for value in graph.node("sum").operands.values() if value} == {"quant.fake_quantize"}


def test_items_of_a_list_get_quantizers_of_their_own():
    b = GraphBuilder()
    x = convolution(b, image(b), "conv")
    graph = inserted(b.outputs(b.aten.cat([x, x], 1, name="cat")))
    read = [value.node.op.name for value in graph.node("cat").operands["tensors"]]
    assert read == ["quant.fake_quantize"] * 2


def test_each_node_says_which_quantizer_it_belongs_to_and_where_it_comes_from():
    graph = inserted(two_convolutions())
    for node in quantizers(graph):
        assert node.annotation(QuantizerNote).quantizer.name == node.attribute("quantizer")
        assert node.location.origins
    assert graph.node("two_weight").location.scopes[-1].path == "block.two"


def test_codes_are_bounded_as_the_spec_says():
    node = inserted(two_convolutions()).node("one_weight")
    assert (node.attribute("quant_min"), node.attribute("quant_max")) == (-128, 127)


# dedup-fake-quant


def deduplicated(graph):
    return run(inserted(graph), DedupFakeQuant())


def test_a_value_is_quantized_once_between_what_makes_it_and_what_reads_it():
    assert [node.name for node in quantizers(deduplicated(two_convolutions()))] == [
        "one_input",
        "one_weight",
        "relu_output",
        "two_weight",
        "two_output",
    ]


def test_two_readers_of_an_input_share_one_node():
    b = GraphBuilder()
    x = image(b)
    graph = deduplicated(b.outputs(convolution(b, x, "one"), convolution(b, x, "two")))
    assert len([node for node in quantizers(graph) if node.operands["input"].node is None]) == 3  # x and two weights


def moved_between(*ops):
    """A convolution, some ops that move values, and another convolution."""
    b = GraphBuilder()
    value = convolution(b, image(b), "one")
    for op, *arguments in ops:
        value = b.op(op, value, *arguments)
    return deduplicated(b.outputs(convolution(b, value, "two")))


def test_views_and_maxima_stay_on_the_grid():
    graph = moved_between(
        ("aten.max_pool2d", (2, 2)), ("aten.transpose.int", 2, 3), ("aten.reshape", (1, 4, 2, 8)), ("aten.relu",)
    )
    activations = [node.name for node in quantizers(graph) if "weight" not in node.name]
    assert activations == ["one_input", "one_output", "relu_output", "two_output"]


def test_averages_leave_the_grid():
    graph = moved_between(("aten.avg_pool2d", (2, 2)))
    activations = [node for node in quantizers(graph) if "weight" not in node.name]
    assert [node.attribute("quantizer") for node in activations] == [
        "one_input",
        "one_output",
        "one_output",
        "two_output",
    ]


def test_zero_padding_stays_on_the_grid_and_other_padding_does_not():
    kept = quantizers(moved_between(("aten.constant_pad_nd", (1, 1), 0)))
    assert len([node for node in kept if "weight" not in node.name]) == 3
    kept = quantizers(moved_between(("aten.constant_pad_nd", (1, 1), 0.7)))
    assert len([node for node in kept if "weight" not in node.name]) == 4


def test_a_concatenation_of_one_grid_stays_on_it():
    b = GraphBuilder()
    x = image(b)
    value = b.aten.cat([convolution(b, x, "one"), convolution(b, x, "two")], 1)
    graph = deduplicated(b.outputs(convolution(b, value, "three")))
    shared_names = [node.attribute("quantizer") for node in quantizers(graph) if "weight" not in node.name]
    assert shared_names == ["one_input", "one_output", "one_output", "three_output"]


def test_an_index_beside_the_values_does_not_take_them_off_the_grid():
    b = GraphBuilder()
    value = convolution(b, image(b), "one")
    picked = b.aten.index_select(value, 1, b.aten.argmax(b.input("y", f32[4, 3]), 1))
    graph = deduplicated(b.outputs(convolution(b, picked, "two")))
    assert len([node for node in quantizers(graph) if "weight" not in node.name]) == 3


def test_zero_padding_leaves_a_grid_that_counts_from_a_minimum_value():
    spec = QuantizationSpec(qformulation="minval", qscheme="asymmetric")
    b = GraphBuilder()
    value = b.aten.constant_pad_nd(convolution(b, image(b), "one"), (1, 1), 0)
    decided = inserted(b.outputs(convolution(b, value, "two")), config_of(spec))
    graph = run(decided, DedupFakeQuant())
    assert len([node for node in quantizers(graph) if "weight" not in node.name]) == 4


def quantized(b, value, name):
    scale = b.graph.constants.get("scale")
    scale = b.constant("scale", torch.tensor(0.5), "buffer") if scale is None else scale.value
    return b.quant.fake_quantize(value, scale, dtype=DType.INT8, quantizer=name)


@pytest.mark.parametrize(
    ("first", "second", "removed"), [("q", "q", True), ("q", None, False), (None, "q", False), ("q", "other", False)]
)
def test_a_concatenation_is_on_a_grid_that_all_its_parts_are_on(first, second, removed):
    b = GraphBuilder()
    parts = [b.input("x"), b.input("y")]
    parts = [x if name is None else quantized(b, x, name) for x, name in zip(parts, (first, second), strict=True)]
    graph = b.outputs(quantized(b, b.aten.cat(parts), "q"))
    record = Runner().run(graph, Pipeline(DedupFakeQuant(), assume=DedupFakeQuant.needs)).records[0]
    assert record.statistics == ({"on its own grid": 1} if removed else {})
    assert record.removed == removed


def test_equal_quantizers_of_one_value_become_one_and_are_counted():
    b = GraphBuilder()
    x = b.input()
    graph = b.outputs(*(quantized(b, x, name) for name in ("q", "q", "other", "q")))
    result = Runner().run(graph, Pipeline(DedupFakeQuant(), assume=DedupFakeQuant.needs))
    assert [node.attribute("quantizer") for node in quantizers(result.graph)] == ["q", "other"]
    assert result.records[0].statistics == {"equal": 2}


def test_a_quantizer_without_a_name_is_left_alone():
    b = GraphBuilder()
    graph = b.outputs(quantized(b, quantized(b, b.input(), ""), ""))
    assert len(quantizers(run(graph, DedupFakeQuant()))) == 2

"""Smoothing: between which ops factors are placed, which channels keep 1, and that the model stays the same."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.interpreter import Interpreter
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, f32, i64
from graphpress.passes.smooth_layers import Smoothing, SmoothLayers, smoothing_factor
from tests.ir.strategies import graphs, random_inputs
from tests.properties.layer_graphs import with_own_names
from tests.properties.transformer_graphs import BATCH, CHANNELS, HEADS, TOKENS, Blocks, transformer_graphs

few = settings(max_examples=30, deadline=None)
fewer = settings(max_examples=10, deadline=None)


def uneven(graph):
    """The ranges of every node with a static last axis, uneven."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for node in graph.nodes:
        type = node.results[0].type
        if hasattr(type, "shape") and type.shape and isinstance(type.shape[-1], int):
            found[node.name] = torch.exp(2 * torch.randn(type.shape[-1], generator=generator)).tolist()
    return found


def smoothed(graph, **options):
    result = Runner().run(graph, Pipeline(SmoothLayers(**options), FoldConstants(), assume=SmoothLayers.needs))
    return result.graph, result.remarks(Smoothing), result.records[0]


def block(kind: str = "rms", kv_heads: int = 2, is_whole: bool = True, part: str = "attention"):
    blocks = Blocks()
    x = blocks.build.input("x", f32[BATCH, TOKENS, CHANNELS])
    normed = blocks.norm(x, kind)
    made = blocks.attention(normed, kv_heads, is_whole, True) if part == "attention" else blocks.gated(normed, True)
    return blocks.build.outputs(blocks.build.aten.add.Tensor(x, made))


@few
@given(transformer_graphs(), st.sampled_from((0.0, 0.5, 1.0)))
def test_smoothing_moves_outputs_of_transformers_by_rounding_only(graph, strength):
    assert_effect(SmoothLayers(strength, uneven(graph)), graph, random_inputs(graph), changes=False)


@fewer
@given(graphs(with_literals=False).map(with_own_names))
def test_it_holds_on_graphs_that_were_not_made_for_it(graph):
    assert_effect(SmoothLayers(ranges=uneven(graph)), graph, random_inputs(graph), changes=False)


@pytest.mark.parametrize("kind", ["layer", "rms", "bare layer", "bare rms", "written out"])
def test_every_kind_of_norm_can_be_smoothed(kind):
    graph = block(kind)
    _, found, _ = smoothed(graph, ranges=uneven(graph))
    readers = [{reader.node for reader in each.readers} for each in found]
    assert {"linear", "linear_1", "linear_2"} in readers
    assert_effect(SmoothLayers(ranges=uneven(graph)), graph, random_inputs(graph))


@pytest.mark.parametrize("is_whole", [False, True], ids=["matmul", "sdpa"])
def test_heads_of_a_group_share_the_factors_of_their_values(is_whole):
    graph = block(kv_heads=2, is_whole=is_whole)
    made, found, _ = smoothed(graph, ranges=uneven(graph))
    (each,) = (each for each in found if each.source == "linear_2")
    (reader,) = each.readers
    assert reader.channels.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    factor = smoothing_factor(
        torch.tensor(uneven(graph)["linear_2"]), in_range(graph, "linear_3", reader.channels), 0.5
    )
    before, after = (weight(each, "linear_3") for each in (graph, made))
    torch.testing.assert_close(after, before * factor.float()[reader.channels])


def weight(graph, name):
    return graph.node(name).operands["weight"].constant.tensor


def in_range(graph, name, channels):
    columns = weight(graph, name).abs().amax(0)
    return torch.stack([columns[channels == channel].amax() for channel in range(int(channels.max()) + 1)])


def test_the_gate_of_an_mlp_is_left_and_the_other_factor_smoothed():
    graph = block(part="gated")
    _, found, record = smoothed(graph)
    assert {each.source for each in found} == {"rms_norm", "linear_1"}
    assert "silu (aten.silu) reads it" in "\n".join(map(str, record.reports))


def test_the_range_of_the_activation_becomes_that_of_the_formula():
    graph = block()
    inputs = random_inputs(graph)
    seen = ranges_in(graph, "rms_norm", inputs)
    made, _, _ = smoothed(graph, ranges={"rms_norm": seen.tolist()})
    weights = torch.cat([weight(graph, f"linear{suffix}") for suffix in ("", "_1", "_2")]).abs().amax(0)
    torch.testing.assert_close(ranges_in(made, "rms_norm", inputs), (seen * weights).sqrt())


def ranges_in(graph, name, inputs):
    found = {}

    def keep(node, results):
        if node.name == name:
            found[name] = results[0].abs().amax((0, 1))

    Interpreter(graph, keep).run(inputs)
    return found[name]


def test_without_ranges_the_factors_are_one_and_nothing_moves():
    graph = block()
    made, found, _ = smoothed(graph)
    assert found
    assert all(torch.equal(weight(made, name), weight(graph, name)) for name in ("linear", "linear_2", "linear_3"))


def test_channels_that_something_else_reads_keep_the_factor_one():
    blocks = Blocks()
    value = blocks.norm(blocks.build.input("x", f32[BATCH, TOKENS, CHANNELS]), "rms")
    part = blocks.build.aten.slice.Tensor(value, 2, 0, 3)
    graph = blocks.build.outputs(blocks.linear(value, 5), blocks.build.aten.relu(part))
    made, (found,), _ = smoothed(graph, ranges=uneven(graph))
    assert found.free.tolist() == [False] * 3 + [True] * 5
    assert torch.equal(weight(made, "linear")[:, :3], weight(graph, "linear")[:, :3])
    assert not torch.equal(weight(made, "linear")[:, 3:], weight(graph, "linear")[:, 3:])
    assert_effect(SmoothLayers(ranges=uneven(graph)), graph, random_inputs(graph))


def test_a_weight_that_others_use_is_left_with_a_reason():
    build = GraphBuilder()
    table = build.constant("table", torch.randn(6, 4))
    x = build.aten.embedding(table, build.input("ids", i64[3]))
    value = build.aten.rms_norm(x, [4], build.constant("gain", torch.rand(4)))
    _, found, record = smoothed(build.outputs(build.aten.linear(value, table)))
    assert not found
    assert "embedding uses the weight of linear too" in "\n".join(map(str, record.reports))


def test_an_op_with_several_results_pins_the_channels_with_a_reason():
    blocks = Blocks()
    value = blocks.norm(blocks.build.input("x", f32[BATCH, TOKENS, CHANNELS]), "rms")
    topk = blocks.build.node("aten.topk", value, 2)
    _, found, record = smoothed(blocks.build.outputs(blocks.linear(value, 5), *topk.results))
    assert not found
    assert "topk has several results" in "\n".join(map(str, record.reports))


def test_a_channel_without_values_or_weights_has_the_factor_one():
    factor = smoothing_factor(torch.tensor([0.0, 4.0, 4.0]), torch.tensor([1.0, 0.0, 1.0]), 0.5)
    assert factor.tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("heads", [1, HEADS])
def test_products_of_channels_with_other_channels_are_never_smoothed(heads):
    graph = block(kv_heads=heads)
    _, found, _ = smoothed(graph)
    assert not {"linear", "linear_1"} & {each.source for each in found}


@frozen
class ForgetReader(SmoothLayers):
    """Scales one of the layers that read a norm, and not the others."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        node = graph.node("linear_1")
        rewriter.set_operand(node, "weight", node.operands["weight"].node.operands["input"])


@frozen
class WrongHeads(SmoothLayers):
    """Repeats the factors of the key-value heads side by side, not in groups."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in list(graph.nodes):
            if node.op.name == "aten.index_select":
                places = rewriter.add_constant("places", torch.arange(CHANNELS) % 4, "literal")
                rewriter.set_operand(node, "index", places)
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)


@pytest.mark.parametrize("wrong", [ForgetReader, WrongHeads], ids=lambda each: each.__name__)
def test_the_harness_rejects_what_is_wrong(wrong):
    graph = block(kv_heads=2)
    with pytest.raises(AssertionError, match="moved output 0"):
        assert_effect(wrong(ranges=uneven(graph)), graph, random_inputs(graph))

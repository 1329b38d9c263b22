"""Rotation of residual streams: which streams are rotated, which are refused and why, and that models stay the same."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.interpreter import Interpreter
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.fold_norm_weights import FoldNormWeights
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, f32, i64, op_names
from graphpress.passes.rotate_residual import RotatedStream, RotateResidual, UnrotatedStream, random_hadamard
from tests.ir.strategies import graphs, random_inputs
from tests.properties.layer_graphs import with_own_names
from tests.properties.transformer_graphs import BATCH, CHANNELS, NORMS, TOKENS, Blocks, transformer_graphs

LAYER_NORMS = ("layer", "bare layer")
RMS_NORMS = ("rms", "bare rms", "written out", "written out with bias")
few = settings(max_examples=30, deadline=None)
fewer = settings(max_examples=10, deadline=None)


def norms_folded(graph):
    return Runner().run(graph, Pipeline(FoldNormWeights(), assume=FoldNormWeights.needs)).graph


def rotated(graph):
    result = Runner().run(norms_folded(graph), Pipeline(RotateResidual(), FoldConstants(), assume=RotateResidual.needs))
    return result.graph, result.remarks(RotatedStream), [each.reason for each in result.remarks(UnrotatedStream)]


def stream(blocks: Blocks, x=None):
    """The beginning of a residual stream."""
    x = blocks.build.input("x", f32[BATCH, TOKENS, CHANNELS]) if x is None else x
    return blocks.linear(x, CHANNELS, True)


def model(kind: str = "rms", blocks: Blocks | None = None):
    blocks = blocks or Blocks()
    x = stream(blocks)
    x = blocks.build.aten.add.Tensor(x, blocks.attention(blocks.norm(x, kind), 2, True, True))
    x = blocks.build.aten.add.Tensor(x, blocks.gated(blocks.norm(x, kind), True))
    return blocks.build.outputs(blocks.linear(blocks.norm(x, kind), 5, True))


@pytest.mark.parametrize("kind", NORMS)
def test_a_transformer_is_rotated_with_norms_of_every_kind(kind):
    graph = norms_folded(model(kind))
    assert_effect(RotateResidual(), graph, random_inputs(graph))
    made, (found,), refused = rotated(model(kind))
    assert refused == []
    assert (found.channels, found.sources, found.sinks) == (CHANNELS, 6, 6)
    assert "layer_norm" not in op_names(made)
    assert not any(node.op.dialect == "fold" for node in made.nodes)


@few
@given(transformer_graphs())
def test_rotation_moves_outputs_of_transformers_by_rounding_only(graph):
    folded = norms_folded(graph)
    assert_effect(RotateResidual(), folded, random_inputs(folded), changes=False)


@few
@given(st.sampled_from((LAYER_NORMS, RMS_NORMS)).flatmap(lambda kinds: transformer_graphs(kinds, spoils=False)))
def test_every_transformer_with_norms_before_its_branches_is_rotated(graph):
    folded = norms_folded(graph)
    assert_effect(RotateResidual(), folded, random_inputs(folded))


@fewer
@given(graphs(with_literals=False).map(with_own_names))
def test_it_holds_on_graphs_that_were_not_made_for_it(graph):
    assert_effect(RotateResidual(), graph, random_inputs(graph), changes=False)


def test_products_with_matrices_write_to_a_stream_and_read_from_it():
    graph = model("layer", Blocks(has_matrices=True))
    folded = norms_folded(graph)
    assert_effect(RotateResidual(), folded, random_inputs(folded))
    _, (found,), refused = rotated(graph)
    assert refused == []
    assert (found.sources, found.sinks) == (6, 6)


def test_an_outlier_channel_of_the_stream_is_spread():
    blocks = Blocks()
    graph = model("rms", blocks)
    graph.constants["c2"].tensor[3] *= 100  # rows of the weight that begins the stream
    made, _, _ = rotated(graph)
    inputs = random_inputs(graph)
    assert crest(graph, inputs) > 2
    assert crest(made, inputs) < 1.5


def crest(graph, inputs) -> float:
    """The largest magnitude in the first value of the stream, by its root mean square in each position."""
    found = []
    Interpreter(graph, lambda node, results: found.append(results[0]) if node.name == "linear" else None).run(inputs)
    (value,) = found
    return float((value.abs().amax(-1) / value.square().mean(-1).sqrt()).max())


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 12, 15, 576])
def test_the_matrix_is_orthogonal_and_even(channels):
    matrix = random_hadamard(channels, seed=1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(channels, dtype=torch.float64))
    odd = channels // (channels & -channels)
    assert float(matrix.abs().max()) <= (odd / channels) ** 0.5 + 1e-9


def test_the_matrix_depends_on_the_seed_alone():
    assert torch.equal(random_hadamard(12, 3), random_hadamard(12, 3))
    assert not torch.equal(random_hadamard(12, 3), random_hadamard(12, 4))


def test_a_table_that_a_head_shares_stays_one_when_both_rotate_alike():
    build = GraphBuilder()
    table = build.constant("table", torch.randn(6, 4))
    x = build.aten.embedding(table, build.input("ids", i64[3]))
    graph = build.outputs(build.aten.linear(build.aten.rms_norm(x, [4]), table))
    made, found, _ = rotated(graph)
    assert len(found) == 1
    assert_effect(RotateResidual(), graph, [torch.tensor([0, 5, 2])])
    tables = [node.operands["weight"].constant.tensor for node in made.nodes if node.operand("weight") is not None]
    assert torch.equal(*tables)


def test_tokens_that_are_joined_to_a_stream_of_patches_are_rotated_too():
    blocks = Blocks()
    build, aten = blocks.build, blocks.build.aten
    image = build.input("image", f32[BATCH, 3, 4, 4])
    patches = aten.conv2d(image, blocks.constant(CHANNELS, 3, 2, 2), blocks.constant(CHANNELS), [2, 2])
    patches = aten.transpose.int(aten.flatten.using_ints(patches, 2), 1, 2)
    token = aten.expand(blocks.constant(1, 1, CHANNELS), [BATCH, 1, CHANNELS])
    x = aten.add.Tensor(aten.cat([token, patches], 1), blocks.constant(1, 5, CHANNELS))
    x = aten.add.Tensor(x, blocks.plain(blocks.norm(x, "layer"), True))
    first = aten.select.int(blocks.norm(x, "layer"), 1, 0)
    graph = norms_folded(build.outputs(blocks.linear(first, 5)))
    assert_effect(RotateResidual(), graph, random_inputs(graph))
    _, (found,), refused = rotated(graph)
    assert refused == []
    assert found.sources == 6  # weight and bias of the patches and of the branch, the token, the positions


REFUSED = {
    "grouped convolution": "conv1d (aten.conv1d) makes it",
    "input": "x is an input of the graph",
    "output": "linear is an output of the graph",
    "activation": "relu (aten.relu) reads it",
    "gate": "multiplies its channels by different factors",
    "scalar": "adds",
    "part": "takes its channels apart",
    "mean": "sums over its channels",
    "weight": "has a weight for each channel, which its readers cannot take",
    "mean that is read": "is read with its mean, which layer norms elsewhere in the stream subtract",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_stream_that_anything_else_touches_is_refused_with_a_reason(case):
    blocks = Blocks()
    build, aten = blocks.build, blocks.build.aten
    extra = []
    x = build.input("x", f32[BATCH, TOKENS, CHANNELS]) if case == "input" else stream(blocks)
    match case:
        case "output":
            extra = [x]
        case "grouped convolution":
            turned = aten.conv1d(aten.transpose.int(x, 1, 2), blocks.constant(CHANNELS, 1, 1), groups=CHANNELS)
            x = aten.transpose.int(turned, 1, 2)
        case "activation":
            extra = [aten.relu(x)]
        case "gate":
            x = aten.mul.Tensor(x, aten.sigmoid(blocks.linear(aten.rms_norm(x, [CHANNELS]), CHANNELS)))
        case "scalar":
            x = aten.add.Tensor(x, build.constant("one", torch.ones(1)))
        case "part":
            extra = [aten.slice.Tensor(x, 2, 0, 3)]
        case "mean":
            extra = [aten.mean.dim(x, [2])]
    kind = "layer" if case == "mean that is read" else "rms"
    normed = blocks.norm(x, kind)
    if case == "weight":
        extra = [aten.relu(normed)]
    if case == "mean that is read":
        extra = [blocks.linear(x, 3)]
    made, found, refused = rotated(build.outputs(blocks.linear(normed, 5), *extra))
    assert found == []
    assert REFUSED[case] in "\n".join(refused)
    assert not any("rotated" in name for name in made.constants)


@frozen
class ForgetBias(RotateResidual):
    """Rotates the weights that write to a stream, and not their biases."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in graph.nodes:
            bias = node.operand("bias")
            if bias is not None and bias.node is not None and bias.node.op.name == "fold.rotate_axis":
                rewriter.set_operand(node, "bias", bias.node.operands["input"])


@frozen
class ForgetMean(RotateResidual):
    """Replaces layer norms without a subtraction of the mean elsewhere."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        matrices = {node.operands["rotation"] for node in graph.nodes if node.op.name == "fold.rotate_axis"}
        whole = next(each for each in matrices if "centred" not in each.name)
        for node in graph.nodes:
            if node.op.name == "fold.rotate_axis":
                rewriter.set_operand(node, "rotation", whole)
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)


@frozen
class Transposed(RotateResidual):
    """Rotates what reads the stream by the transposed matrix."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in list(graph.nodes):
            if node.op.name == "fold.rotate_axis" and node.attribute("axis") == 1:
                turned = rewriter.insert_before(node, "aten.t", {"self": node.operands["rotation"]})
                rewriter.set_operand(node, "rotation", turned.result)


@pytest.mark.parametrize("wrong", [ForgetBias, ForgetMean, Transposed], ids=lambda each: each.__name__)
def test_the_harness_rejects_what_is_wrong(wrong):
    graph = norms_folded(model("layer"))
    with pytest.raises(AssertionError, match="moved output 0"):
        assert_effect(wrong(), graph, random_inputs(graph))

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.coreai.raising import RaiseFromCoreai
from graphpress.ir.dtypes import DType
from graphpress.passes.analysis.quantization_points import QuantizationPoints
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.convert_fake_quant import ConvertFakeQuant
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.dedup_fake_quant import DedupFakeQuant
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import EXACT
from graphpress.passes.framework.numerics import compare, execute
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, assert_idempotent, f32, renamed, reordered
from graphpress.passes.share_quantizers import ShareQuantizers
from tests.ir.strategies import random_inputs
from tests.properties.quantized_graphs import (
    calibrated,
    config_of,
    plain_graphs,
    run,
    specs,
    with_quantizers,
)

few = settings(max_examples=20, deadline=None)
shufflers = st.randoms(use_true_random=False)


def moved(before, after, inputs):
    return [drift.error for drift in compare(execute(before, inputs), execute(after, inputs), EXACT)]


# effects


@few
@given(plain_graphs(), specs())
def test_deciding_about_quantizers_changes_no_bit(graph, spec):
    inputs = random_inputs(graph)
    for pass_ in (AnnotateFusion(), AssignQuantizers(config_of(spec)), ShareQuantizers()):
        graph = assert_effect(pass_, graph, inputs, changes=False).graph
        assert_idempotent(pass_, graph)


@few
@given(plain_graphs())
def test_quantizers_without_parameters_change_no_bit_and_no_note_is_left(graph):
    made = with_quantizers(graph)
    assert moved(graph, made, random_inputs(graph)) == [0] * len(graph.outputs)
    assert not any(node.annotation(QuantizationPoints) for node in made.nodes)


@few
@given(plain_graphs(), specs(("int8", "uint4", "float8_e4m3fn")))
def test_removing_quantizers_of_values_on_their_grid_changes_no_bit(graph, spec):
    graph = calibrated(with_quantizers(graph, config_of(spec)))
    assert_effect(DedupFakeQuant(), graph, random_inputs(graph), changes=False)
    assert_idempotent(DedupFakeQuant(), graph)


@few
@given(plain_graphs(), specs(("int8", "uint8", "int4", "float8_e5m2")), specs(("int8", "uint4")))
def test_codes_stand_for_what_the_quantizer_made(graph, activation, weight):
    graph = calibrated(with_quantizers(graph, config_of(activation, weight)))
    result = assert_effect(ConvertFakeQuant(), graph, random_inputs(graph), changes=False).graph
    for constant in result.constants.values():
        if constant.name.endswith("_quantized"):
            assert constant.type.dtype.bits <= 8


@few
@given(plain_graphs(), specs(), specs(("int8", "uint8", "int4")))
def test_lowered_ops_compute_the_same_bits(graph, activation, weight):
    graph = run(calibrated(with_quantizers(graph, config_of(activation, weight))), DedupFakeQuant(), ConvertFakeQuant())
    lowered = assert_effect(LowerToCoreai(), graph, random_inputs(graph), changes=False).graph
    assert not any(node.op.dialect == "quant" for node in lowered.nodes)
    assert_effect(RaiseFromCoreai(), lowered, random_inputs(graph), changes=False)


@few
@given(plain_graphs())
def test_evaluating_constants_changes_no_bit(graph):
    assert_effect(FoldConstants(), graph, random_inputs(graph), changes=False)
    assert_idempotent(FoldConstants(), graph)


@few
@given(plain_graphs(), specs())
def test_common_subexpressions_and_dead_nodes_of_quantized_graphs(graph, spec):
    graph = calibrated(with_quantizers(graph, config_of(spec)))
    for pass_ in (Cse(), Dce()):
        assert_effect(pass_, graph, random_inputs(graph), changes=False)
        assert_idempotent(pass_, graph)


# order and names


def sharing(graph):
    """Which points have one quantizer, and what it is, without its name."""
    groups = {}
    for node in graph.nodes:
        for place, point in enumerate(getattr(node.annotation(QuantizationPoints), "points", ())):
            groups.setdefault(point.quantizer.name, []).append((node.name, place, point.quantizer.spec))
    return {frozenset(members) for members in groups.values()}


@few
@given(plain_graphs(), specs(), shufflers)
def test_sharing_does_not_depend_on_the_order_of_nodes(graph, spec, shuffler):
    graph = run(graph, AnnotateFusion(), AssignQuantizers(config_of(spec)))
    expected = sharing(run(graph, ShareQuantizers()))
    assert sharing(run(reordered(graph, shuffler), ShareQuantizers())) == expected


@few
@given(plain_graphs(), shufflers)
def test_the_numbers_of_a_quantized_graph_do_not_depend_on_names(graph, shuffler):
    inputs = random_inputs(graph)
    one, other = (
        run(calibrated(with_quantizers(g)), DedupFakeQuant(), Dce()) for g in (graph, renamed(graph, shuffler))
    )
    assert Counter(node.op.name for node in one.nodes) == Counter(node.op.name for node in other.nodes)
    assert moved(one, other, inputs) == [0] * len(graph.outputs)


@few
@given(plain_graphs())
def test_every_quantizer_has_one_spec(graph):
    made = run(graph, AnnotateFusion(), AssignQuantizers(), ShareQuantizers())
    specs_of = {}
    for node in made.nodes:
        for point in getattr(node.annotation(QuantizationPoints), "points", ()):
            specs_of.setdefault(point.quantizer.name, set()).add(point.quantizer.spec)
    assert all(len(found) == 1 for found in specs_of.values())


# The harness must reject passes that are wrong.


class DedupThatIgnoresQuantizers(DedupFakeQuant):
    """Takes any two fake-quantizers in a row for one."""

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            producer = node.operands["input"].node if node.op.name == "quant.fake_quantize" else None
            if producer is not None and producer.op.name == node.op.name:
                rewriter.replace(node, producer.result)
        Dce().run(graph, rewriter, context)


class DedupAcrossAverages(DedupFakeQuant):
    """Takes the mean of values on a grid for a value on that grid."""

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            producer = node.operands["input"].node if node.op.name == "quant.fake_quantize" else None
            if producer is not None and producer.op.short_name == "mean":
                rewriter.replace(node, producer.result)


class ConvertByFloor(ConvertFakeQuant):
    """Rounds weights down."""

    def _stored(self, node, weight, tensor, rewriter):
        scale = node.operands["scale"].constant.tensor
        return super()._stored(node, weight, (tensor / scale).floor() * scale, rewriter)


class ConvertWithoutZeroPoint(ConvertFakeQuant):
    """Forgets where zero is."""

    def _computed(self, node, value, rewriter):
        rewriter.set_operand(node, "zero_point", None)
        return super()._computed(node, value, rewriter)


class FoldOffByOne(FoldConstants):
    """Takes the neighbouring element."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for constant in graph.constants.values():
            if constant.name.endswith("_folded"):
                rewriter.replace_constant(constant, constant.tensor.roll(1, -1))


class LowerAlongTheWrongAxis(LowerToCoreai):
    """Names another axis than that of the scales."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in graph.nodes:
            if node.op.name in ("coreai.quantize", "coreai.dequantize"):
                rewriter.set_attribute(node, "axis", 3 - node.attribute("axis"))


class RaiseWithoutZeroPoint(RaiseFromCoreai):
    """Drops an operand on the way."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in graph.nodes:
            if node.op.name == "quant.blockwise_shift_scale":
                rewriter.set_operand(node, "zero_point", None)
        Dce().run(graph, rewriter, context)


def image():
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def weights(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantizer(b, value, name, scale, zero_point=None, dtype=DType.INT8):
    """A fake-quantizer of `value` with parameters."""
    operands = [b.constant(f"{name}_scale", scale, "buffer")]
    if zero_point is not None:
        operands.append(b.constant(f"{name}_zero_point", zero_point, "buffer"))
    return b.quant.fake_quantize(value, *operands, dtype=dtype, quantizer=name)


def two_quantizers():
    b = GraphBuilder()
    value = quantizer(b, b.input("x", f32[2, 4, 4, 4]), "one", torch.tensor(0.5))
    return b.outputs(quantizer(b, value, "other", torch.tensor(0.3)))


def averaged():
    b = GraphBuilder()
    value = quantizer(b, b.input("x", f32[2, 4, 4, 4]), "one", torch.tensor(0.5))
    again = b.quant.fake_quantize(b.aten.mean.dim(value, (-1,)), value.node.operands["scale"], **GRID)
    return b.outputs(again)


GRID = {"dtype": DType.INT8, "quantizer": "one"}


def quantized_weight():
    b = GraphBuilder()
    codes = torch.tensor([0.01, 0.02, 0.03, 0.04]).reshape(4, 1, 1, 1), torch.full((4, 1, 1, 1), 9.0)
    weight = quantizer(b, b.constant("weight", weights(4, 4, 3, 3)), "weight", *codes, dtype=DType.UINT8)
    return b.outputs(b.aten.conv2d(b.input("x", f32[2, 4, 4, 4]), weight))


def quantized_input():
    b = GraphBuilder()
    x = b.input("x", f32[2, 4, 4, 4])
    return b.outputs(quantizer(b, x, "x", torch.tensor(0.02), torch.tensor(120.0), DType.UINT8))


def quantized_channels():
    b = GraphBuilder()
    scales = torch.tensor([0.01, 0.02, 0.03, 0.04]).reshape(1, 4, 1, 1)
    return run(b.outputs(quantizer(b, b.input("x", f32[2, 4, 4, 4]), "x", scales)), ConvertFakeQuant())


def summed_constants():
    b = GraphBuilder()
    weight = b.aten.add.Tensor(*(b.constant(f"half{i}", weights(4, 4, 3, 3, seed=i)) for i in range(2)))
    return b.outputs(b.aten.conv2d(b.input("x", f32[2, 4, 4, 4]), weight))


def lowered_weight():
    return run(quantized_weight(), ConvertFakeQuant(), LowerToCoreai())


WRONG = [
    (DedupThatIgnoresQuantizers(), two_quantizers),
    (DedupAcrossAverages(), averaged),
    (ConvertByFloor(), quantized_weight),
    (ConvertWithoutZeroPoint(), quantized_input),
    (FoldOffByOne(), summed_constants),
    (LowerAlongTheWrongAxis(), quantized_channels),
    (RaiseWithoutZeroPoint(), lowered_weight),
]


@pytest.mark.parametrize(("wrong", "graph"), WRONG, ids=lambda item: type(item).__name__)
def test_the_harness_rejects_a_pass_that_is_wrong(wrong, graph):
    right = type(wrong).__mro__[1]()
    assert_effect(right, graph(), [image()], changes=False)
    with pytest.raises(AssertionError, match="moved output 0"):
        assert_effect(wrong, graph(), [image()])

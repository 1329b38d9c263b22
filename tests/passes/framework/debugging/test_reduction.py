from __future__ import annotations

import pytest
import torch
from attrs import frozen

from graphpress.ir.verifier import verify
from graphpress.passes.analysis.facts import CANONICAL
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.framework import Pass, Pipeline, Repeat, register_pass
from graphpress.passes.framework.debugging.bisection import bisect_numerics
from graphpress.passes.framework.debugging.reduction import ReductionError, reduce
from graphpress.passes.framework.debugging.reproduction import Case
from graphpress.passes.framework.testing import GraphBuilder, f32, op_names
from tests.passes.framework.failing_passes import SampleCrash, SampleOptionCrash, SampleWrongSign, conv_blocks
from tests.passes.framework.sample_passes import relu_chain


@register_pass
@frozen
class SampleStructureCrash(Pass):
    """Fails where a sine is added to a cosine."""

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            if node.op.short_name == "add":
                makers = {value.node.op.short_name for _, _, value in node.operand_values() if value.node is not None}
                if makers == {"sin", "cos"}:
                    raise ArithmeticError("no")


def wide():
    """A sine and a cosine that meet far from where they are made."""
    b = GraphBuilder()
    x = b.input("x", f32[2, 8])
    sine, other = b.aten.sin(x), b.aten.exp(x)
    for _ in range(20):
        other = b.aten.relu(other)
    cosine = b.aten.cos(other)
    for _ in range(20):
        other = b.aten.relu(other)
    return b.outputs(other, b.aten.relu(b.aten.add.Tensor(sine, cosine)), sine)


def test_only_the_nodes_the_failure_needs_are_left():
    reduced = reduce(Case(wide(), Pipeline(SampleStructureCrash())))
    assert reduced.is_minimal
    assert sorted(op_names(reduced.case.graph)) == ["add", "cos", "sin"]
    assert len(reduced.case.graph.user_outputs()) == 1
    verify(reduced.case.graph)
    assert reduced.trials < 120


def test_the_graph_reduced_from_stays_as_it_is():
    graph = wide()
    before = str(graph)
    reduce(Case(graph, Pipeline(SampleStructureCrash())))
    assert str(graph) == before


def test_a_part_is_given_the_values_that_reach_it_in_a_run_of_the_whole():
    b = GraphBuilder()
    value = b.input()
    for _ in range(3):
        value = b.aten.mul.Tensor(value, 3.0)
    graph = b.outputs(b.aten.relu(b.aten.sqrt(b.aten.neg(value))))

    def is_nan(case):
        roots = [node for node in case.graph.nodes if node.op.short_name == "sqrt"]
        from graphpress.ir.interpreter import run

        return bool(roots) and bool(torch.as_tensor(run(case.graph, case.inputs)[0]).isnan().any())

    reduced = reduce(Case(graph, Pipeline(), [torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2)]), is_nan)
    assert op_names(reduced.case.graph) == ["sqrt"]
    assert reduced.case.inputs[0].shape == (1, 1)
    assert reduced.case.inputs[0].item() == -27.0


def test_tensors_become_small_and_plain_as_far_as_the_failure_allows():
    graph = conv_blocks(2, channels=8)

    def has_two_channels(case):
        convs = [node for node in case.graph.nodes if node.op.short_name == "conv2d"]
        return bool(convs) and convs[0].operand("weight").tensor_type.shape[0] >= 2

    reduced = reduce(Case(graph, Pipeline(), [torch.randn(1, 8, 16, 16)]), has_two_channels).case
    assert op_names(reduced.graph) == ["conv2d"]
    weight = reduced.graph.constants["conv0.weight"]
    assert weight.type.shape[0] == 2
    assert weight.tensor.unique().tolist() == [0.0]
    assert reduced.inputs[0].numel() <= 32
    assert reduced.inputs[0].unique().tolist() == [0.0]


def test_the_pipeline_becomes_short():
    pipeline = Pipeline(Cse(), Repeat(Dce(), SampleOptionCrash(op="relu", extra=7)), FoldBatchNorm(), assume=CANONICAL)
    reduced = reduce(Case(relu_chain(30), pipeline)).case
    assert str(reduced.pipeline) == 'sample-option-crash{op="relu"}'
    assert len(reduced.graph.nodes) == 1


def test_another_failure_is_not_taken_for_the_same():
    b = GraphBuilder()
    x = b.input()
    graph = b.outputs(b.aten.neg(b.aten.relu(x)))

    @frozen
    class Two(Pass):
        def run(self, graph, rewriter, context):
            if len(graph.nodes) == 1:
                self.fail_otherwise()
            if "neg" in op_names(graph):
                raise ValueError("first")

        def fail_otherwise(self):
            raise ValueError("second")

    assert len(reduce(Case(graph, Pipeline(Two()))).case.graph.nodes) == 2


def test_what_does_not_fail_is_refused():
    with pytest.raises(ReductionError, match="does not fail"):
        reduce(Case(relu_chain(2), Pipeline(Dce())))
    with pytest.raises(ReductionError, match="finds nothing wrong"):
        reduce(Case(relu_chain(2), Pipeline(Dce())), lambda case: False)


def test_trials_run_out_with_the_smallest_so_far():
    seen = []
    reduced = reduce(
        Case(relu_chain(64), Pipeline(SampleCrash("relu"))),
        max_trials=4,
        progress=lambda case, trials: seen.append((len(case.graph.nodes), trials)),
    )
    assert not reduced.is_minimal
    assert seen == [(32, 2), (16, 3), (8, 4)]  # the first trial went to the option
    assert len(reduced.case.graph.nodes) == 8


def test_a_wrong_sign_in_one_rewrite_of_a_large_model_is_found_and_made_small():
    graph = conv_blocks(90, strided=(57,), channels=4, size=8)
    assert len(graph.nodes) > 300
    inputs = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))]
    pipeline = Pipeline(Cse(), SampleWrongSign(), Dce(), assume=CANONICAL)
    found = bisect_numerics(graph, pipeline, inputs)
    assert (found.step.address, found.rewrite.rewrite.node_name) == ("sample-wrong-sign#1", "norm57")
    assert (found.rewrite.first, found.rewrite.rewrite.number, found.rewrite.total) == (58, 58, 90)
    reduced = reduce(found.case(inputs))
    assert op_names(reduced.case.graph) == ["conv2d", "batch_norm"]
    assert reduced.is_minimal
    assert [each.shape for each in reduced.case.inputs] == [(1, 1, 1, 1)]
    assert str(reduced.case.pipeline) == "sample-wrong-sign"

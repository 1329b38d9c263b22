"""What holds of every pipeline on every graph."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.location import UNKNOWN, Location, ModuleScope, Origin
from graphpress.ir.verifier import verify
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.framework import CLOSE, NumericDrift, Pass, Pipeline, Runner, run_pass
from graphpress.passes.framework.hooks import Numerics
from graphpress.passes.framework.testing import GraphBuilder, assert_idempotent, assert_independent
from tests.ir.strategies import random_inputs
from tests.properties.layer_graphs import layer_graphs
from tests.properties.quantized_graphs import calibrated, plain_graphs, with_quantizers
from tests.properties.random_graphs import elementwise_graphs
from tests.properties.standard_pipelines import STEPS, standard_pipelines

few = settings(max_examples=12, deadline=None)
many = settings(max_examples=150, deadline=None)


def located(graph):
    """`graph`, every node of which comes from somewhere."""
    for node in graph.nodes:
        if not node.location.origins:
            node.location = Location((Origin((ModuleScope("", "Model"),), "model.py", 1),))
    return graph


any_graph = st.one_of(layer_graphs(), elementwise_graphs(), plain_graphs()).map(located)


def assert_holds(graph, pipeline):
    inputs, original = random_inputs(graph), graph.clone()
    result = Runner([Numerics(inputs)]).run(graph, pipeline)  # holds every step to its effect, and verifies it
    verify(result.graph)
    assert graph == original
    assert [node.name for node in result.graph.nodes if not node.location.origins] == []
    read = Pipeline.parse(str(pipeline))
    assert read == pipeline
    assert str(read) == str(pipeline)


def assert_independent_of_names_and_order(graph, pipeline):
    # Which norm of several in a row is folded first shows in the last bits.
    assert_independent(pipeline, graph, random_inputs(graph), effect=CLOSE(rtol=1e-5, atol=1e-6))


def assert_settles(graph):
    for pass_ in (step for step in STEPS if isinstance(step, Pass)):
        assert pass_.is_idempotent
        assert_idempotent(pass_, graph)
    assert_idempotent(Cse(tie_weights=True), graph)


@few
@given(any_graph, standard_pipelines())
def test_every_pipeline_keeps_its_promises_on_every_graph(graph, pipeline):
    assert_holds(graph, pipeline)


@few
@given(any_graph, standard_pipelines())
def test_no_result_depends_on_what_nodes_are_called_or_how_they_are_ordered(graph, pipeline):
    assert_independent_of_names_and_order(graph, pipeline)


def test_a_graph_of_no_nodes_has_one_order():
    empty = GraphBuilder()
    assert_independent_of_names_and_order(empty.outputs(empty.input()), Pipeline.parse("canonicalize"))


@few
@given(any_graph)
def test_a_second_run_of_a_pass_that_says_so_changes_nothing(graph):
    assert_settles(graph)


@few
@given(plain_graphs())
def test_a_second_run_changes_nothing_on_the_way_to_codes_either(graph):
    from graphpress.backends.coreai.lowering import LowerToCoreai
    from graphpress.backends.coreai.raising import RaiseFromCoreai
    from graphpress.passes.convert_fake_quant import ConvertFakeQuant
    from graphpress.passes.palettize_weights import PalettizeWeights

    assert_idempotent(PalettizeWeights(leave_indivisible=True), graph)
    graph = calibrated(with_quantizers(graph))
    for pass_ in (ConvertFakeQuant(), LowerToCoreai(), RaiseFromCoreai()):
        assert pass_.is_idempotent
        assert_idempotent(pass_, graph)
        graph = run_pass(pass_, graph).graph


@pytest.mark.slow
@many
@given(any_graph, standard_pipelines(longest=14))
def test_long_pipelines_keep_their_promises(graph, pipeline):
    assert_holds(graph, pipeline)


@pytest.mark.slow
@many
@given(any_graph, standard_pipelines(longest=14))
def test_no_result_of_a_long_pipeline_depends_on_names_or_order(graph, pipeline):
    assert_independent_of_names_and_order(graph, pipeline)


@pytest.mark.slow
@many
@given(any_graph)
def test_passes_settle_on_many_graphs(graph):
    assert_settles(graph)


# The harness must reject passes that are wrong.


class ByName(Pass):
    """Folds the branch whose name comes first."""

    def run(self, graph, rewriter, context):
        first = min((node for node in graph.nodes if node.op.short_name == "relu"), key=lambda node: node.name)
        rewriter.replace(first, first.operand("self"))


class ByOrder(Pass):
    """Folds the branch that comes first."""

    def run(self, graph, rewriter, context):
        first = next(node for node in graph.nodes if node.op.short_name == "relu")
        rewriter.replace(first, first.operand("self"))


@frozen
class Drifting(Pass):
    """Moves the numbers a little more than it says."""

    effect = CLOSE()

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            if node.op.short_name == "relu":
                made = rewriter.insert_before(
                    node, "aten.leaky_relu", {"self": node.operand("self")}, {"negative_slope": 1e-3}
                )
                rewriter.replace(node, made.result)


class Forgetful(Pass):
    """Forgets where nodes come from."""

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            if node.op.short_name == "relu":
                rewriter.insert_before(node, "aten.relu", {"self": node.operand("self")}, location=UNKNOWN)


def branches():
    b = GraphBuilder()
    x = b.input()
    return b.outputs(b.aten.sub.Tensor(b.aten.relu(x), b.aten.neg(b.aten.relu(b.aten.neg(x)))))


@pytest.mark.parametrize(("wrong", "complaint"), [(ByName(), "names"), (ByOrder(), "orders")])
def test_the_harness_rejects_a_pass_that_goes_by_names_or_order(wrong, complaint):
    graph = branches()
    assert_independent(Pipeline(Cse(), Dce()), graph, [torch.randn(2, 4)])
    complaints = set()
    for seed in range(10):
        try:
            assert_independent(Pipeline(wrong), graph, [torch.randn(2, 4)], seed=seed)
        except AssertionError as error:
            complaints.add(str(error))
    assert any(f"other {complaint} of nodes" in found or f"the {complaint} of nodes" in found for found in complaints)


def test_the_harness_rejects_a_step_that_drifts_and_nodes_from_nowhere():
    with pytest.raises(NumericDrift, match="drifting#1"):
        assert_holds(branches(), Pipeline(Dce(), Drifting()))
    with pytest.raises(AssertionError):
        assert_holds(branches(), Pipeline(Forgetful()))

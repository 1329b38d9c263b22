from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, assert_idempotent
from tests.ir.strategies import random_inputs
from tests.properties.quantized_graphs import plain_graphs
from tests.properties.spelled_graphs import spelled_graphs

few = settings(max_examples=15, deadline=None)


@few
@given(spelled_graphs())
def test_one_spelling_computes_what_the_others_did(graph):
    assert_effect(Canonicalize(), graph, random_inputs(graph), changes=False)
    assert_idempotent(Canonicalize(), graph)


@few
@given(plain_graphs())
def test_graphs_in_their_one_spelling_stay_as_they_are_but_for_identities(graph):
    result = assert_effect(Canonicalize(), graph, random_inputs(graph), changes=False)
    assert len(result.graph.nodes) <= len(graph.nodes)


# The harness must reject passes that are wrong.


class DropTrainingDropout(Canonicalize):
    """Takes any dropout for one in evaluation."""

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            if node.op.short_name == "dropout":
                rewriter.replace(node, node.operands["input"])


class DropMultiplication(Canonicalize):
    """Takes any multiplication for one by one."""

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            if node.op.short_name == "mul":
                rewriter.replace(node, node.operands["self"])


class ForgetEps(Canonicalize):
    """Gives a batch norm another eps."""

    def run(self, graph, rewriter, context):
        super().run(graph, rewriter, context)
        for node in graph.nodes:
            if node.op.name == "aten.batch_norm":
                rewriter.set_attribute(node, "eps", 1e-5)


def training_dropout():
    b = GraphBuilder()
    return b.outputs(b.aten.dropout(b.input(), 1.0, True))


def almost_one():
    b = GraphBuilder()
    return b.outputs(b.aten.mul.Tensor(b.input(), 1.001))


def native_norm():
    b = GraphBuilder()
    parameters = [b.constant(name, torch.full((4,), 0.5), "buffer") for name in ("gamma", "beta", "mean", "var")]
    norm = b.node("aten._native_batch_norm_legit_no_training", b.input(), *parameters, 0.1, 1e-2)
    return b.outputs(norm.results[0])


@pytest.mark.parametrize(
    ("wrong", "graph"),
    [(DropTrainingDropout(), training_dropout), (DropMultiplication(), almost_one), (ForgetEps(), native_norm)],
)
def test_the_harness_rejects_a_pass_that_is_wrong(wrong, graph):
    assert_effect(Canonicalize(), graph(), random_inputs(graph()), changes=False)
    with pytest.raises(AssertionError, match="moved output 0"):
        assert_effect(wrong, graph(), random_inputs(graph()))

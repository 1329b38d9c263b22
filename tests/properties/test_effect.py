from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.text.parser import parse_graph
from graphpress.ir.text.printer import print_graph
from graphpress.ir.verifier import verify
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.framework import CLOSE, Pass, Pipeline, Repeat, RewritePass, Runner, rule
from graphpress.passes.framework.hooks import Numerics
from graphpress.passes.framework.patterns import Any, Op
from graphpress.passes.framework.testing import GraphBuilder, assert_effect, assert_idempotent
from tests.properties.random_graphs import elementwise_graphs

few = settings(max_examples=30, deadline=None)


def inputs():
    return [torch.tensor([[-2.0, -0.5, -0.0, 0.0], [0.25, 1.0, 3.0, float("inf")]])]


def twins():
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    return b.outputs(b.aten.sub.Tensor(x, y), b.aten.sub.Tensor(y, x), b.aten.sub.Tensor(x, y))


def two_inputs():
    return [torch.arange(8.0).reshape(2, 4), torch.ones(2, 4)]


@few
@given(elementwise_graphs())
def test_dce_and_cse_change_no_bit(graph):
    for pass_ in (Dce(), Cse(), Cse(tie_weights=True)):
        assert_effect(pass_, graph, inputs(), changes=False)
        assert_idempotent(pass_, graph)


@few
@given(elementwise_graphs())
def test_no_two_equal_nodes_are_left_and_none_is_dead(graph):
    graph = Runner().run(graph, Pipeline(Cse(), Dce())).graph
    assert not any(node.is_dead for node in graph.nodes)
    keys = [
        (n.op.name, tuple((k, id(v)) for k, v in n.operands.items()), tuple(n.attributes.items())) for n in graph.nodes
    ]
    assert len(keys) == len(set(keys))


@few
@given(elementwise_graphs(), st.lists(st.sampled_from([Dce(), Cse(), Repeat(Cse(), Dce())]), max_size=3))
def test_any_pipeline_of_exact_passes_is_exact_and_leaves_a_valid_graph(graph, steps):
    result = Runner([Numerics(inputs())]).run(graph, Pipeline(*steps))
    verify(result.graph)
    assert (
        parse_graph(print_graph(result.graph), {n: c.tensor for n, c in result.graph.constants.items()}) == result.graph
    )


# The harness must reject passes that are wrong.


class CseThatSwapsEverything(Pass):
    """Merges subtractions whatever the order of their operands."""

    def run(self, graph, rewriter, context):
        seen = {}
        for node in graph.nodes:
            first = seen.setdefault(frozenset(id(value) for _, _, value in node.operand_values()), node)
            if first is not node:
                rewriter.replace(node, first.results)


class DceThatForgetsOutputs(Pass):
    """Lets the last output return what the first does, and removes the rest."""

    def run(self, graph, rewriter, context):
        kept = graph.outputs[0].value
        rewriter.replace_uses(graph.outputs[1].value, kept, where=lambda use: use.user is graph.outputs[1])


@rule(Op("aten.sub", Any("a"), Any("b")))
def wrong_sign(match, rewriter):
    return rewriter.insert_before(match.root, "aten.sub.Tensor", {"self": match["b"], "other": match["a"]})


@rule(Op("aten.sub", Any("a"), Any("b")).where(lambda n: "eps" not in n.name, "not done"))
def slightly_off(match, rewriter):
    made = rewriter.insert_before(match.root, "aten.sub.Tensor", {"self": match["a"], "other": match["b"]}, name="eps")
    return rewriter.insert_before(match.root, "aten.mul.Tensor", {"self": made.result}, {"other": 1.0 + 1e-4})


class SlightlyOff(RewritePass):
    effect = CLOSE()
    rules = (slightly_off,)


class Nothing(Pass):
    def run(self, graph, rewriter, context):
        pass


class FromNowhere(Pass):
    def run(self, graph, rewriter, context):
        from graphpress.ir.location import UNKNOWN

        node = next(iter(graph.nodes))
        twin = rewriter.insert_before(node, node.op, node.operands, location=UNKNOWN)
        rewriter.replace_uses(node.result, twin.result)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (CseThatSwapsEverything(), "is EXACT, but moved output 1"),
        (DceThatForgetsOutputs(), "moved output 1"),
        (SlightlyOff(), r"is CLOSE\(rtol=1e-05, atol=1e-06\), but moved output 0"),
        (Nothing(), "changed nothing"),
        (FromNowhere(), "nodes without a location"),
    ],
)
def test_the_harness_rejects_a_pass_that_is_wrong(wrong, complaint):
    with pytest.raises(AssertionError, match=complaint):
        assert_effect(wrong, twins(), two_inputs())


def test_the_harness_accepts_the_right_one_and_leaves_the_drift_on_the_record():
    result = assert_effect(Cse(), twins(), two_inputs())
    assert len(result.graph.nodes) == 2
    assert [drift.error for drift in result.records[0].drift] == [0, 0, 0]


def test_a_pass_that_never_settles_is_not_idempotent():
    class AddRelu(Pass):
        def run(self, graph, rewriter, context):
            last = list(graph.nodes)[-1]
            made = rewriter.insert_before(None, "aten.relu", {"self": last.result})
            rewriter.replace_uses(last.result, made.result, where=lambda use: use.user is not made)

    with pytest.raises(AssertionError, match="not idempotent: add-relu#1: 1 added"):
        assert_idempotent(AddRelu(), twins())

from __future__ import annotations

import pytest
import torch
from attrs import frozen

from graphpress.ir.interpreter import InterpreterError, run
from graphpress.passes.analysis.facts import CANONICAL
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.framework import (
    CLOSE,
    LOSSY,
    BisectionError,
    Fact,
    Pass,
    Pipeline,
    Repeat,
    RewritePass,
    Violation,
    rule,
)
from graphpress.passes.framework.debugging.bisection import bisect, bisect_numerics
from graphpress.passes.framework.debugging.rewrite_bisection import changed_lines, first_bad_rewrite
from graphpress.passes.framework.patterns import Any, Op
from graphpress.passes.framework.testing import GraphBuilder, op_names
from tests.passes.framework.failing_passes import SampleCrash, SampleWrongRule, SampleWrongSign, conv_blocks
from tests.passes.framework.sample_passes import relu_chain


def has(name):
    return lambda graph: name not in op_names(graph)


def signs(count=4):
    """Pairs of negated values multiplied, and in the middle one added."""
    b = GraphBuilder()
    value = b.input()
    for number in range(count):
        op = "aten.add.Tensor" if number == count // 2 else "aten.mul.Tensor"
        left = value if op == "aten.add.Tensor" else b.aten.neg(value)
        value = b.op(op, left, b.aten.neg(b.aten.sin(value)), name=f"join{number}")
    return b.outputs(value)


def given():
    return [torch.linspace(0.1, 1, 8).reshape(2, 4)]


def test_the_wrong_rule_among_several_is_found_with_the_place_it_was_applied_at():
    found = bisect_numerics(signs(), Pipeline(Cse(), SampleWrongRule(), Dce()), given())
    assert found.step.address == "sample-wrong-rule#1"
    assert "is CLOSE(rtol=1e-05, atol=1e-06), but moved output 0" in found.problem
    bad = found.rewrite
    assert (bad.rewrite.number, bad.rewrite.title, bad.rewrite.node_name, bad.total) == (3, "one-sign", "join2", 4)
    assert bad.rewrite.location.module_path == "block.join2"
    text = str(found)
    assert "first bad rewrite 3 of 4: one-sign\n  node: join2 (aten.add.Tensor)\n  module: block.join2 (Add)" in text
    assert "\n  source: model.py:" in text
    assert "- %join2: f32[2, 4] = aten.add.Tensor(self=%join1, other=%neg_4)" in bad.diff()
    assert "+ %join2: f32[2, 4] = aten.add.Tensor(self=%join1, other=%sin_2)" in bad.diff()
    torch.testing.assert_close(run(bad.before, given()), run(signs(), given()))
    assert not torch.allclose(run(bad.after, given())[0], run(signs(), given())[0])


def test_the_wrong_rewrite_of_a_pass_without_rules_is_found():
    graph = conv_blocks(9, strided=(5,))
    inputs = [torch.randn(1, 8, 16, 16)]
    found = bisect_numerics(graph, Pipeline(Cse(), SampleWrongSign(), assume=CANONICAL), inputs)
    bad = found.rewrite
    assert (found.step.address, bad.rewrite.number, bad.total) == ("sample-wrong-sign#1", 6, 9)
    assert bad.rewrite.node_name == "norm5"
    assert any(line.startswith("+ %neg") for line in bad.diff().splitlines())
    assert len(bad.diff().splitlines()) < 25


def test_any_check_over_graphs_will_do():
    log = []

    def is_good(graph):
        log.append(len(graph.nodes))
        return len(graph.nodes) > 6

    found = bisect(relu_chain(20), Pipeline(Dce(), Shorten(), Cse(), Dce()), is_good)
    assert found.step.address == "shorten#1"
    assert found.rewrite.rewrite.number == 14
    assert (len(found.rewrite.before.nodes), len(found.rewrite.after.nodes)) == (7, 6)
    assert len(log) < 10  # a binary search


class Shorten(RewritePass):
    @property
    def rules(self):
        @rule(Op("aten.relu", Op("aten.relu", Any("x"))))
        def drop_relu(match, rewriter):
            return match.root.operand("self")

        return (drop_relu,)


def test_steps_in_a_repeat_are_told_with_their_round():
    @frozen
    class OneLess(Pass):
        def run(self, graph, rewriter, context):
            last = list(graph.nodes)[-1]
            if last.operand("self").node is not None:
                rewriter.replace(last, last.operand("self"))

    found = bisect(relu_chain(8), Pipeline(Repeat(OneLess(), Dce(), max=6)), lambda graph: len(graph.nodes) > 4)
    assert found.step.label == "one-less#1@4"


def test_all_good_is_none():
    assert bisect(relu_chain(3), Pipeline(Cse(), Dce()), lambda graph: True) is None
    assert bisect_numerics(signs(), Pipeline(Cse(), Dce()), given()) is None


def test_a_graph_that_is_bad_from_the_start_blames_no_step():
    with pytest.raises(BisectionError, match="bad before the first step"):
        bisect(relu_chain(3), Pipeline(Cse()), lambda graph: False)
    with pytest.raises(InterpreterError, match="takes 1 inputs"):
        bisect_numerics(relu_chain(3), Pipeline(Cse()), [])


def test_a_check_that_raises_ends_the_search():
    def broken(graph):
        raise KeyError("no such file")

    with pytest.raises(KeyError):
        bisect(relu_chain(3), Pipeline(Cse()), broken)


def test_a_step_that_fails_is_bad_and_the_rewrite_after_which_it_fails_is_named():
    class Loose(Pass):
        def run(self, graph, rewriter, context):
            for node in graph.nodes:
                context.node = node
                if node.name == "relu_2":
                    rewriter.insert_before(graph.nodes[0], "aten.relu", {"self": node.result})
                else:
                    rewriter.set_operand(node, "self", node.operand("self"))

    found = bisect(relu_chain(5), Pipeline(Dce(), Loose()), lambda graph: True)
    assert "computed only later" in found.problem
    assert (found.rewrite.rewrite.number, found.rewrite.rewrite.node_name) == (3, "relu_2")
    found = bisect_numerics(relu_chain(5), Pipeline(SampleCrash("relu")), given())
    assert "ZeroDivisionError: cannot bear relu" in found.problem
    assert found.rewrite is None
    assert "no single rewrite of it is to blame" in str(found)


def test_a_missing_fact_is_the_whole_steps_fault():
    relu_free = Fact("relu-free", checker=lambda graph: [Violation("a relu", node) for node in graph.nodes])

    class Promise(Shorten):
        gives = relu_free

    found = bisect(relu_chain(4), Pipeline(Promise()), lambda graph: True)
    assert "FactError" in found.problem
    assert found.rewrite is None


def test_rewrites_between_which_no_graph_is_valid_are_blamed_together():
    class TwoHalves(Pass):
        """Negates by two edits, between which a value is read before it is made."""

        effect = LOSSY(0.0)

        def run(self, graph, rewriter, context):
            first, second, _ = graph.nodes
            made = rewriter.insert_before(None, "aten.neg", {"self": first.result})
            rewriter.set_operand(second, "self", made.result)
            rewriter.set_operand(made, "self", graph.inputs[0].value)
            moved = rewriter.insert_before(second, "aten.neg", {"self": first.result})
            rewriter.replace(made, moved.result)

    found = first_bad_rewrite(relu_chain(3), TwoHalves(), has("neg"))
    assert found.first < found.rewrite.number == found.total
    assert "which belong together" in str(found)


def test_steps_are_held_to_their_own_effect_or_to_one_for_all():
    class Rough(Pass):
        effect = LOSSY(0.1)

        def run(self, graph, rewriter, context):
            for node in graph.nodes:
                if node.op.short_name == "mul":
                    rewriter.set_attribute(node, "other", node.attribute("other") * 1.01)

    b = GraphBuilder()
    value = b.input()
    for _ in range(4):
        value = b.aten.mul.Tensor(value, 2.0)
    graph, pipeline = b.outputs(value), Pipeline(Dce(), Rough(), Rough())
    assert bisect_numerics(graph, pipeline, given()) is None
    found = bisect_numerics(graph, pipeline, given(), effect=CLOSE(rtol=0.025))
    bad = found.rewrite.rewrite
    assert (found.step.address, bad.number, bad.node_name) == ("rough#1", 3, "mul_2")


def test_the_graph_the_search_starts_from_stays_as_it_is():
    graph = conv_blocks(3, strided=(1,))
    before = str(graph)
    bisect_numerics(graph, Pipeline(SampleWrongSign(), assume=CANONICAL), [torch.randn(1, 8, 16, 16)])
    assert str(graph) == before


def test_only_the_lines_that_changed_are_shown():
    graph = conv_blocks(12)
    assert changed_lines(graph, graph.clone()) == ""
    after = graph.clone()
    after.node("relu1").attributes["alpha"] = 1
    after.node("relu9").attributes["alpha"] = 1
    shown = changed_lines(graph, after).splitlines()
    assert [line[0] for line in shown] == [" ", "-", "+", " ", " ", " ", "-", "+", " "]
    assert shown[4] == "  ..."


def test_folding_right_is_good_all_along():
    graph = conv_blocks(4, strided=(1,))
    assert bisect_numerics(graph, Pipeline(FoldBatchNorm(), assume=CANONICAL), [torch.randn(1, 8, 16, 16)]) is None

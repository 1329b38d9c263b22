"""What counts as one rewrite, and what a pass leaves that is stopped after so many."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen

from graphpress.ir.interpreter import run
from graphpress.ir.rewriter import RewriteLimitReached, Rewriter
from graphpress.ir.verifier import verify
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Fact, Hook, Pass, Pipeline, Repeat, RewritePass, Runner, Violation, rule
from graphpress.passes.framework.hooks import Bisect
from graphpress.passes.framework.patterns import Any, Op
from graphpress.passes.framework.testing import GraphBuilder, f32, op_names
from tests.passes.framework.sample_passes import relu_chain


@rule(Op("aten.relu", Op("aten.relu", Any("x"))))
def drop_relu(match, rewriter):
    return match.root.operand("self")


class DropRelus(RewritePass):
    rules = (drop_relu,)


def norms(count):
    """`count` convolutions, each with a batch norm behind it."""
    b = GraphBuilder()
    value = b.input("x", f32[1, 3, 4, 4])
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        weight = b.constant(f"w{number}", torch.randn(3, 3, 1, 1, generator=generator))
        parts = [b.constant(f"{part}{number}", torch.rand(3, generator=generator) + 0.5) for part in "gbmv"]
        norm = (*parts, False, 0.1, 1e-5, False)
        value = b.aten.batch_norm(b.aten.conv2d(value, weight), *norm)
    return b.outputs(value)


def first(limit, rewrites, graph, *steps):
    hook = Bisect(limit, rewrites)
    assume = frozenset().union(*(step.needs for step in steps if isinstance(step, Pass)))
    result = Runner([hook]).run(graph, Pipeline(*steps, assume=assume))
    return result, hook


def test_only_the_first_steps_run_and_each_round_of_a_repeat_counts():
    result, _ = first(2, None, relu_chain(3), Repeat(DropRelus(), Dce()), Cse())
    assert [str(record) for record in result.records] == [
        "drop-relus#1@1: 2 removed, 2 changed",
        "dce#1@1: nothing changed",
        "drop-relus#1@2: skipped",
        "dce#1@2: skipped",
        "cse#1: skipped",
    ]


def test_one_application_of_a_rule_is_a_rewrite():
    for limit in range(5):
        result, hook = first(1, limit, relu_chain(4), DropRelus())
        assert len(result.graph.nodes) == 4 - min(limit, 3)
        assert result.records[0].rewrites == min(limit, 3)
        assert result.records[0].is_cut == (limit < 3)
    assert (hook.last.number, hook.last.title, hook.last.op_name) == (3, "drop-relu", "aten.relu")


def test_what_a_pass_edits_while_at_one_node_is_a_rewrite():
    graph, given = norms(3), [torch.randn(1, 3, 4, 4)]
    whole, _ = first(1, None, graph, FoldBatchNorm())
    assert whole.records[0].rewrites == 3
    for limit in range(4):
        result, hook = first(1, limit, graph, FoldBatchNorm())
        assert op_names(result.graph).count("batch_norm") == 3 - limit
        torch.testing.assert_close(run(result.graph, given), run(graph, given))
    assert (hook.last.node_name, hook.last.op_name) == ("batch_norm_2", "aten.batch_norm")
    assert hook.last.location.module_path == "block.batch_norm_2"
    assert str(hook.last) == "rewrite 3: insert fold.batch_norm_factor at batch_norm_2 (aten.batch_norm)"


def test_edits_of_a_pass_that_does_not_say_where_it_is_are_rewrites_with_what_was_made_for_them():
    b = GraphBuilder()
    x = b.input()
    graph = b.outputs(*(b.aten._to_copy(x, name=f"copy{number}") for number in range(3)))
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        two = rewriter.add_constant("two", torch.full((2, 4), 2.0))
        made = rewriter.insert_before(node, "aten.mul.Tensor", {"self": x, "other": two})
        rewriter.replace(node, made.result)
    assert rewriter.rewrites.count == 3
    first_mul, second_mul, _ = graph.nodes
    rewriter.set_operand(first_mul, "self", first_mul.operand("self"))
    rewriter.set_operand(first_mul, "other", first_mul.operand("other"))
    assert rewriter.rewrites.count == 4
    rewriter.set_operand(second_mul, "self", x)
    assert rewriter.rewrites.last.title == "set operand self"
    assert rewriter.rewrites.count == 5


@pytest.mark.parametrize(
    "pass_", [Canonicalize(), FoldBatchNorm(), FoldConstants(), Cse(tie_weights=True), Dce()], ids=lambda p: p.name
)
def test_a_pass_that_is_cut_off_anywhere_leaves_a_valid_graph_of_the_same_meaning(pass_):
    graph, given = _messy(), [torch.randn(1, 3, 4, 4)]
    expected, total = run(graph, given), first(1, None, graph, pass_)[0].records[0].rewrites
    assert total > 1
    for limit in range(total + 1):
        result, _ = first(1, limit, graph, pass_)  # Verify is on
        torch.testing.assert_close(run(result.graph, given), expected)


def _messy():
    """Norms to fold, constants to fold, equal nodes and weights, dead nodes, spellings to change."""
    graph = norms(2)
    builder = GraphBuilder(graph)
    value = graph.outputs[0].value
    one, two = (builder.constant(name, torch.ones(3, 1, 1)) for name in ("one", "two"))
    twins = [builder.aten.mul.Tensor(value, builder.aten.neg(each)) for each in (one, two)]
    copies = [builder.aten.clone(twin) for twin in twins]
    builder.aten.relu(builder.aten.relu(value))
    graph.set_output(graph.outputs[0], builder.aten.add.Tensor(*copies))
    verify(graph)
    return graph


def test_facts_are_not_checked_on_half_the_work():
    fact = Fact("no-relu", checker=lambda graph: [Violation("a relu", node) for node in graph.nodes][1:])

    class Promise(DropRelus):
        gives = fact

    result, _ = first(1, 1, relu_chain(3), Promise())
    assert result.records[0].is_cut


def test_no_pass_can_take_the_limit_for_an_error_of_its_own():
    class Stubborn(Pass):
        def run(self, graph, rewriter, context):
            for node in reversed(graph.nodes):
                try:
                    rewriter.erase(node)
                except Exception:
                    context.report(node, "kept")

    b = GraphBuilder()
    x = b.input()
    for _ in range(3):
        b.aten.relu(x)
    result, _ = first(1, 2, b.outputs(x), Stubborn())
    assert len(result.graph.nodes) == 1
    assert result.records[0].reports == []
    assert not issubclass(RewriteLimitReached, Exception)


def test_a_limit_must_be_a_count():
    for wrong in (-1, 1.5, None):
        with pytest.raises((ValueError, TypeError)):
            Bisect(wrong)


@frozen
class Nothing(Pass):
    def run(self, graph, rewriter, context):
        """Edits nothing."""


def test_a_pass_without_edits_makes_no_rewrite():
    result, hook = first(1, 0, relu_chain(2), Nothing())
    assert result.records[0].rewrites == 0
    assert not result.records[0].is_cut
    assert hook.last is None


def test_a_hook_that_fails_when_it_gets_the_rewriter_is_named_and_the_others_are_told():
    told = []

    class Breaks(Hook):
        def rewriting(self, step, rewriter):
            raise KeyError("limit")

    class Watches(Hook):
        def failed(self, step, graph, error):
            told.append(step.address)

    with pytest.raises(KeyError) as caught:
        Runner([Watches(), Breaks()]).run(relu_chain(2), Pipeline(DropRelus()))
    assert caught.value.__notes__ == ["from the hook Breaks at step 'drop-relus#1'"]
    assert told == ["drop-relus#1"]

from __future__ import annotations

import pytest
import torch
from attrs import frozen

from graphpress.passes.framework import (
    PassRegistrationError,
    RewritePass,
    UnknownPassError,
    add_rule,
    explain,
    lookup_rule,
    register_pass,
    remove_rule,
    rule,
    run_pass,
    unregister_pass,
)
from graphpress.passes.framework.patterns import Any, Constant, Op
from graphpress.passes.framework.testing import GraphBuilder, f32, op_names
from tests.passes.framework.sample_passes import relu_chain


@rule(Op("aten.relu", Op("aten.add", Op("aten.conv2d", Any("x"), Constant("w"), name="conv"), Any("y"))))
def fuse(match, rewriter):
    return match["x"]


@rule(Op("aten.relu", Op("aten.relu", Any("x"))))
def sample_relu(match, rewriter):
    return match.root.operand("self")


@register_pass
@frozen
class SampleRules(RewritePass):
    """Rules to look up."""

    rules = (sample_relu,)


def model():
    b = GraphBuilder()
    x = b.input("x", f32[1, 3, 4, 4])
    conv = b.aten.conv2d(x, b.constant("w", torch.ones(3, 3, 1, 1)))
    far = b.aten.relu(x)
    near = b.aten.relu(b.aten.add.Tensor(far, x))
    hit = b.aten.relu(b.aten.add.Tensor(conv, near))
    return b.outputs(hit, b.aten.neg(hit))


def test_misses_are_ranked_by_how_much_matched():
    found = explain(fuse, model())
    assert [match.root.name for match in found.matches] == ["relu_2"]
    assert [miss.path for miss in found.misses] == [("relu", "self", "other"), ("relu", "self")]
    assert str(found).split("\n")[0] == "fuse: 1 matches, 2 near misses"
    assert "relu.self: expected aten.add, found input x: f32[1, 3, 4, 4]" in str(found)
    assert len(explain(fuse, model(), most=1).misses) == 1


def test_a_node_inside_the_pattern_leads_to_the_roots_it_would_take_part_under():
    graph = model()
    assert [m.root.name for m in explain(fuse, graph, graph.node("conv2d")).matches] == ["relu_2"]
    assert [m.node.name for m in explain(fuse, graph, graph.node("add")).misses]
    assert "no node is aten.relu" in str(explain(fuse, graph, graph.node("neg")))


def test_the_reason_of_a_check_is_the_nearest_miss():
    checked = rule(fuse.pattern, check=lambda match: match.miss("a bias", "none", at="conv"))(lambda m, r: None)
    assert str(explain(checked, model()).misses[0]).startswith(
        "relu.self.self: expected a bias, found none\n  at conv2d"
    )


def test_users_add_rules_to_a_pass_and_remove_them_again():
    @rule(Op("aten.neg", Any("x")))
    def drop_neg(match, rewriter):
        return match["x"]

    b = GraphBuilder()
    graph = b.outputs(b.aten.neg(b.input()))
    add_rule(SampleRules, drop_neg)
    try:
        assert op_names(run_pass(SampleRules(), graph, verify=False).graph) == []
        assert lookup_rule("sample-rules/drop-neg") is drop_neg
        with pytest.raises(PassRegistrationError, match="has a rule 'drop-neg' already"):
            add_rule(SampleRules, drop_neg)
        with pytest.raises(PassRegistrationError, match="has a rule 'sample-relu' already"):
            add_rule(SampleRules, sample_relu)
    finally:
        remove_rule(SampleRules, drop_neg)
    assert op_names(run_pass(SampleRules(), graph, verify=False).graph) == ["neg"]


def test_rules_are_looked_up_by_name():
    assert lookup_rule("sample-relu") is sample_relu
    assert op_names(run_pass(SampleRules(), relu_chain(3), verify=False).graph) == ["relu"]
    with pytest.raises(UnknownPassError, match="no rule 'sample-reul'; did you mean 'sample-relu'"):
        lookup_rule("sample-reul")


def test_a_rule_name_that_two_passes_have_is_ambiguous():
    @register_pass
    @frozen
    class OtherRules(RewritePass):
        rules = (sample_relu,)

    try:
        with pytest.raises(UnknownPassError, match="say 'other-rules/sample-relu' or 'sample-rules/sample-relu'"):
            lookup_rule("sample-relu")
    finally:
        unregister_pass(OtherRules)

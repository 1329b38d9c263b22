"""Rules as objects: how they are made, registered, found, and refused."""

from __future__ import annotations

import pytest
from attrs import frozen

from graphpress.passes.framework import (
    CLOSE,
    EXACT,
    LOSSY,
    Fact,
    Miss,
    PassRegistrationError,
    PatternError,
    RewritePass,
    add_rule,
    lookup_rule,
    register_pass,
    registered_rules,
    rule,
    run_pass,
    unregister_pass,
)
from graphpress.passes.framework.patterns import Any, Op
from graphpress.passes.framework.rule_index import RuleIndex
from graphpress.passes.framework.testing import GraphBuilder, op_names
from tests.passes.framework.sample_passes import Idle, relu_chain

RELUS = Op("aten.relu", Op("aten.relu", Any("x")))


@rule(RELUS)
def drop_relu(match, rewriter):
    """One relu is enough."""
    return match.root.operand("self")


def plain(match, rewriter):
    return None


# Mistakes are told where they are written.


def test_what_is_no_pattern_is_refused_at_once():
    with pytest.raises(PatternError, match=r"a rule needs a pattern, as in @rule\(Op\('aten.relu'"):

        @rule
        def bare(match, rewriter):
            return None

    with pytest.raises(PatternError, match=r"this is 'aten\.relu'"):
        rule("aten.relu")
    with pytest.raises(PatternError, match="must be an Op, not Any"):
        rule(Any("x"))


@pytest.mark.parametrize("check", [True, "x is float", Miss(("relu",), "a", "b")])
def test_a_check_that_is_no_function_is_refused_at_once(check):
    with pytest.raises(PatternError, match="`check` is a function that is given the match"):
        rule(RELUS, check=check)


def test_only_functions_are_decorated():
    with pytest.raises(PatternError, match="@rule decorates a function"):
        rule(RELUS)(drop_relu)


@pytest.mark.parametrize(
    ("found", "advice"), [(plain, "decorate it with @rule"), (RELUS, "make one with"), (3, "make")]
)
def test_what_is_no_rule_is_not_added_to_a_pass(found, advice):
    class Empty(RewritePass):
        """Has no rules."""

    with pytest.raises(PassRegistrationError, match=f"cannot add to the pass 'empty': .*is no Rule: {advice}"):
        add_rule(Empty, found)
    assert Empty().all_rules() == ()


def make_pass(**declared):
    return type("Declaring", (RewritePass,), declared)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((plain,), r"`rules` of .*Declaring: <function plain.*> is no Rule: decorate it with @rule"),
        ((drop_relu, RELUS), "is no Rule: make one with the decorator @rule"),
        (drop_relu, r"is a tuple of rules, such as \(drop_relu,\), not <rule drop-relu>"),
        (None, r"is a tuple of rules, such as \(my_rule,\), not None"),
        ((drop_relu, drop_relu), "two rules are called 'drop-relu'"),
    ],
)
def test_rules_that_are_none_are_refused_when_the_class_is_made(rules, message):
    with pytest.raises(PassRegistrationError, match=message):
        make_pass(rules=rules)
    assert make_pass(rules=[drop_relu]).rules == (drop_relu,)


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (1e-5, r"`effect` of .*Declaring is 1e-05, which is no Effect; it takes EXACT, CLOSE\("),
        (CLOSE, r"which is no Effect; write CLOSE\(\); it takes"),
        (LOSSY, r"write LOSSY\(\)"),
        ("exact", "is 'exact'"),
        (None, "is None"),
        (lambda self: EXACT, "is no Effect; it takes EXACT, .* or a property"),
    ],
)
def test_an_effect_that_is_none_is_refused_when_the_class_is_made(effect, message):
    with pytest.raises(PassRegistrationError, match=message):
        make_pass(effect=effect)
    assert make_pass(effect=CLOSE()).effect == CLOSE()


@pytest.mark.parametrize("kind", ["needs", "gives", "breaks"])
@pytest.mark.parametrize("declared", ["canonical", 1, ["canonical"], frozenset({"canonical"}), Fact])
def test_facts_that_are_none_are_refused_when_the_class_is_made(kind, declared):
    with pytest.raises(
        PassRegistrationError, match=f"`{kind}` of .*Declaring is .*it takes a Fact or several, such as"
    ):
        make_pass(**{kind: declared})
    fact = Fact("small")
    assert getattr(make_pass(**{kind: [fact]}), kind) == {fact}


def test_a_pass_without_rules_is_held_to_the_same():
    with pytest.raises(PassRegistrationError, match="no Effect"):
        type("Declaring", (Idle,), {"effect": 0.0})


# Rules that options choose.


def test_rules_of_any_options_are_found_by_name():
    @rule(Op("aten.neg", Any("x")))
    def drop_neg(match, rewriter):
        """Lose a sign."""
        return match["x"]

    @register_pass
    @frozen
    class Choosing(RewritePass):
        """Chooses."""

        rules = (drop_relu, drop_neg)
        count: int  # has no default

        def chosen_rules(self):
            return self.rules[: self.count]

    try:
        assert lookup_rule("choosing/drop-neg") is drop_neg
        assert [name for name in registered_rules() if name.startswith("choosing/")] == [
            "choosing/drop-relu",
            "choosing/drop-neg",
        ]
        assert Choosing(1).all_rules() == (drop_relu,)
        b = GraphBuilder()
        graph = b.outputs(b.op("aten.neg", b.input()))
        assert op_names(run_pass(Choosing(1), graph).graph) == ["neg"]
        assert op_names(run_pass(Choosing(2), graph).graph) == []
        with pytest.raises(PassRegistrationError, match="has a rule 'drop-neg' already"):
            add_rule(Choosing, drop_neg)
    finally:
        unregister_pass(Choosing)


# Names.


def test_a_new_node_that_stands_for_the_root_has_its_name():
    @rule(Op("aten.neg", Any("x"), name="neg"))
    def spell_out(match, rewriter):
        doubled = rewriter.insert_before(match.root, "aten.add.Tensor", {"self": match["x"], "other": match["x"]})
        return rewriter.insert_before(match.root, "aten.sub.Tensor", {"self": match["x"], "other": doubled.result})

    class SpellOut(RewritePass):
        rules = (spell_out,)

    b = GraphBuilder()
    graph = b.outputs(b.op("aten.neg", b.input(), name="minus"))
    result = run_pass(SpellOut(), graph).graph
    assert [(node.name, node.op.short_name) for node in result.nodes] == [("add", "add"), ("minus", "sub")]


def test_a_value_that_was_there_before_keeps_its_name_though_the_rule_made_nodes():
    @rule(Op("aten.relu", Op("aten.relu", Any("x"), name="inner")))
    def forget(match, rewriter):
        rewriter.insert_before(match.root, "aten.neg", {"self": match["x"]})
        return match["inner"]

    class Forget(RewritePass):
        rules = (forget,)

    result = run_pass(Forget(), relu_chain(2)).graph
    assert [node.name for node in result.nodes if node.op.short_name == "relu"] == ["relu"]


# What a quick look rejects.


def nodes(op, *arguments):
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    return [b.node(op, x, *(y if argument == "y" else argument for argument in each)) for each in arguments]


def test_a_quick_look_rejects_only_what_the_matcher_does_not_match():
    @rule(Op("aten.mul", Any("x"), 1).keeping_type())
    def by_one(match, rewriter):
        return match["x"]

    index = RuleIndex([by_one])
    for node in nodes("aten.mul.Tensor", [1], [1.0], [2], [True], [1 + 0j], ["y"]):
        is_one = node.attributes.get("other") in (1, 1.0) and type(node.attributes["other"]) in (int, float)
        assert [each.name for each in index.candidates(node)] == ["by-one"] * is_one
        assert isinstance(by_one.match(node), Miss) != is_one


def test_an_op_that_keeps_a_type_says_which_types_differ():
    @rule(Op("aten.reshape", Any("x"), ...).keeping_type())
    def same_shape(match, rewriter):
        return match["x"]

    same, other = nodes("aten.reshape", [(2, 4)], [(8,)])
    assert not isinstance(same_shape.match(same), Miss)
    miss = same_shape.match(other)
    assert (miss.expected, miss.found) == ("one result of the type of `self`", "f32[8] made of f32[2, 4]")
    with pytest.raises(PatternError, match=r"aten\.linear has no parameter 'self'"):
        Op("aten.linear", ...).keeping_type()


def test_a_predicate_of_a_user_is_asked_only_of_what_fits():
    asked = []

    @rule(Op("aten.mul.Tensor", Any("x"), Op("aten.relu", ...)).where(lambda node: not asked.append(node), "anything"))
    def mul(match, rewriter):
        return match["x"]

    (node,) = nodes("aten.mul.Tensor", ["y"])
    assert list(RuleIndex([mul]).candidates(node)) == []
    assert isinstance(mul.match(node), Miss)
    assert asked == []


def test_rules_for_other_operands_than_a_node_has_are_not_tried():
    x = ("aten.relu", "aten.neg", "aten.exp")
    rules = [rule(Op("aten.tanh", Op(op, ...)), name=op)(lambda match, rewriter: None) for op in x]
    either = rule(Op("aten.tanh", Op(x[:2], ...)), name="either")(lambda match, rewriter: None)
    index, b = RuleIndex([*rules, either]), GraphBuilder()
    left = {op: [each.name for each in index.candidates(b.node("aten.tanh", b.op(op, b.input())))] for op in x}
    assert left == {"aten.relu": ["aten.relu", "either"], "aten.neg": ["aten.neg", "either"], "aten.exp": ["aten.exp"]}
    assert index.candidates(b.node("aten.tanh", b.input())) == []


def test_a_driver_tries_a_node_again_when_what_it_reads_from_afar_changed():
    """A check may look anywhere; the second sweep asks again."""

    def no_sigmoid(match):
        ops = [op.name for op in match.root.graph.ops]
        return match.miss("no sigmoid", "one") if "aten.sigmoid" in ops else None

    @rule(Op("aten.neg", Any("x")), check=no_sigmoid)
    def drop_neg(match, rewriter):
        return match["x"]

    @rule(Op("aten.sigmoid", Any("x")))
    def drop_sigmoid(match, rewriter):
        return match["x"]

    class Both(RewritePass):
        rules = (drop_neg, drop_sigmoid)

    b = GraphBuilder()
    graph = b.outputs(b.op("aten.neg", b.input()), b.op("aten.sigmoid", b.input("y")))
    result = run_pass(Both(), graph, verify=False)
    assert op_names(result.graph) == []
    assert result.records[0].statistics == {"drop-sigmoid": 1, "drop-neg": 1}

from __future__ import annotations

import pytest
import torch

from graphpress.passes.analysis.fusion import FusionPattern, register_fusion_pattern, unregister_fusion_pattern
from graphpress.passes.analysis.value_preserving import (
    ValuePreservingError,
    register_value_preserving_op,
    unregister_value_preserving_op,
)
from graphpress.passes.framework import PassRegistrationError, RewritePass, add_rule, remove_rule, rule, run_pass
from graphpress.passes.framework.patterns import Any, Op
from graphpress.passes.framework.testing import GraphBuilder, op_names
from tests.passes.quantization_graphs import groups, image, inserted, points, shared


@pytest.fixture
def fused():
    """Registers patterns for the length of a test."""
    names = []

    def register(name, *chain):
        names.append(register_fusion_pattern(FusionPattern(name, chain)).name)

    yield register
    for name in names:
        unregister_fusion_pattern(name)


@torch.library.custom_op("testlib::swap_halves", mutates_args=())
def swap_halves(x: torch.Tensor) -> torch.Tensor:
    return torch.cat(x.chunk(2, 1)[::-1], 1)


@swap_halves.register_fake
def _(x):
    return torch.empty_like(x)


# An activation of one's own after a binary op.


def add_and_abs(b):
    total = b.aten.add.Tensor(image(b), image(b, "y"), name="add")
    return b.outputs(b.aten.abs(total, name="abs"))


def test_an_activation_of_ones_own_belongs_to_the_binary_op_before_it(fused):
    assert groups(shared(add_and_abs(GraphBuilder()))) == [["add"]]
    fused("binary-abs", "add sub mul", "abs")
    graph = shared(add_and_abs(GraphBuilder()))
    assert groups(graph) == [["add", "abs"]]
    assert sorted(points(graph)) == [("abs", "output"), ("add", "other"), ("add", "self")]


# Chains.


def chain(b, *ops):
    x = image(b)
    for number, op in enumerate(ops):
        x = b.op(f"aten.{op}.Tensor", x, image(b, f"y{number}"), name=f"{op}_{number}")
    return b.outputs(x)


def test_a_chain_of_three_is_quantized_as_one_block(fused):
    fused("add-mul-sub", "add", "mul", "sub")
    graph = shared(chain(GraphBuilder(), "add", "mul", "sub"))
    assert groups(graph) == [["add_0", "mul_1", "sub_2"]]
    assert sorted(points(graph)) == [
        ("add_0", "other"),
        ("add_0", "self"),
        ("mul_1", "other"),
        ("sub_2", "other"),
        ("sub_2", "output"),
    ]


def test_between_the_ops_of_a_chain_nothing_is_quantized(fused):
    fused("add-mul-sub", "add", "mul", "sub")
    assert op_names(inserted(chain(GraphBuilder(), "add", "mul", "sub"))).count("fake_quantize") == 5


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        (["add", "add", "mul"], [["add_0", "add_1", "mul_2"]]),
        (["add", "add", "add", "mul"], [["add_0"], ["add_1", "add_2", "mul_3"]]),
        (["add", "add", "mul"] * 2, [["add_0", "add_1", "mul_2"], ["add_3", "add_4", "mul_5"]]),
    ],
)
def test_a_chain_may_repeat_an_op_type(fused, ops, expected):
    fused("add-add-mul", "add", "add", "mul")
    assert groups(shared(chain(GraphBuilder(), *ops))) == expected


def test_a_chain_of_one_op_type_takes_its_ops_in_order(fused):
    fused("three-adds", "add", "add", "add")
    found = groups(shared(chain(GraphBuilder(), *["add"] * 5)))
    assert found == [["add_0", "add_1", "add_2"], ["add_3"], ["add_4"]]


def test_a_value_that_a_chain_reads_twice_enters_it_once_more(fused):
    fused("add-mul", "add", "mul")
    b = GraphBuilder()
    x = image(b)
    total = b.aten.add.Tensor(x, image(b, "y"), name="add")
    graph = shared(b.outputs(b.aten.mul.Tensor(total, x, name="mul")))
    found = points(graph)
    assert found["mul", "other"] == found["add", "self"]


def test_a_pattern_that_was_taken_back_is_not_matched():
    register_fusion_pattern(FusionPattern("add-mul-sub", ("add", "mul", "sub")))
    unregister_fusion_pattern("add-mul-sub")
    assert groups(shared(chain(GraphBuilder(), "add", "mul", "sub"))) == [["add_0"], ["mul_1"], ["sub_2"]]


# Ops that share the quantizer of their operands.


def swapped(b):
    relu = b.aten.relu(image(b), name="relu")
    return b.outputs(b.aten.relu(b.op("testlib.swap_halves", relu, name="swap"), name="last"))


@pytest.fixture
def registered():
    register_value_preserving_op("swap_halves")
    yield
    unregister_value_preserving_op("swap_halves")


def test_an_op_of_ones_own_shares_the_quantizer_of_its_operand(registered):
    found = points(shared(swapped(GraphBuilder())))
    assert found["relu", "output"] == found["swap", "output"] == found["last", "self"]


def test_an_unknown_op_is_taken_to_make_new_values():
    found = points(shared(swapped(GraphBuilder())))
    assert ("swap", "output") not in found
    assert found["relu", "output"] != found["last", "self"]


def test_a_registration_may_depend_on_the_node():
    register_value_preserving_op("swap_halves", when=lambda node: node.name != "swap")
    try:
        assert ("swap", "output") not in points(shared(swapped(GraphBuilder())))
    finally:
        unregister_value_preserving_op("swap_halves")


def test_known_ops_are_not_registered_again(registered):
    for op_type in ("swap_halves", "reshape"):
        with pytest.raises(ValuePreservingError, match="already"):
            register_value_preserving_op(op_type)
    with pytest.raises(ValuePreservingError, match="did you mean 'swap_halves'"):
        unregister_value_preserving_op("swap_halfs")


# Rules.


class Nothing(RewritePass):
    """Has no rules of its own."""


@rule(Op("aten.neg", Op("aten.neg", Any("x"))))
def double_negation(match, rewriter):
    """Twice the opposite is the same."""
    return match["x"]


def test_a_rule_is_added_to_a_pass_and_removed_again():
    def graph():
        b = GraphBuilder()
        return b.outputs(b.aten.neg(b.aten.neg(b.input())))

    add_rule(Nothing, double_negation)
    with pytest.raises(PassRegistrationError, match="already"):
        add_rule(Nothing, double_negation)
    assert op_names(run_pass(Nothing(), graph()).graph) == []
    remove_rule(Nothing, double_negation)
    assert op_names(run_pass(Nothing(), graph()).graph) == ["neg", "neg"]

from __future__ import annotations

import time

import pytest
import torch

from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework import (
    BudgetExceeded,
    Miss,
    PassContext,
    PassFailed,
    PatternError,
    RewritePass,
    apply_rules,
    rule,
    run_pass,
)
from graphpress.passes.framework.patterns import Any, Attr, Constant, OneOf, Op, Optional
from graphpress.passes.framework.testing import GraphBuilder, f32, op_names
from tests.passes.framework.sample_passes import relu_chain


def apply(graph, *rules, **kwargs):
    return apply_rules(rules, graph, Rewriter(graph), **kwargs)


@rule(Op("aten.relu", Op("aten.relu", Any("x")), name="outer"))
def relu_of_relu(match, rewriter):
    """One relu is enough."""
    return match.value("outer").node.operand("self")


@rule(Op("aten.neg", Op("aten.neg", Any("x"))))
def double_negation(match, rewriter):
    return match["x"]


CONV = Op("aten.conv2d", Any("x"), Any("weight"), Optional(Any("bias")), name="conv", single_use=True)


@rule(Op("aten.relu", Op("aten.add", CONV, Any("other"), name="add", single_use=True)))
def fuse_conv_add_relu(match, rewriter):
    total = rewriter.insert_before(
        match.root, "aten.add.Tensor", {"self": match["other"], "other": match.value("conv")}
    )
    return rewriter.insert_before(match.root, "aten.hardtanh", {"self": total.result}, {"max_val": 6.0})


def conv_block(b, x, skip):
    conv = b.aten.conv2d(x, b.constant("w", torch.ones(3, 3, 1, 1)))
    return b.aten.relu(b.aten.add.Tensor(conv, skip))


def test_rules_are_named_after_their_functions():
    assert relu_of_relu.name == "relu-of-relu"
    assert relu_of_relu.summary == "One relu is enough."
    assert rule(Op("aten.neg", ...), name="other")(lambda m, r: None).name == "other"
    with pytest.raises(PatternError, match="must be an Op, not Any"):
        rule(Any())(lambda m, r: None)


def test_back_to_back_matches_collapse_to_one():
    graph = relu_chain(10)
    assert apply(graph, relu_of_relu) == 9
    assert op_names(graph) == ["relu"]


def test_a_pass_through_replacement_moves_all_readers_graph_outputs_too():
    b = GraphBuilder()
    x = b.input()
    y = b.aten.neg(b.aten.neg(x))
    graph = b.outputs(y, b.aten.relu(y))
    apply(graph, double_negation)
    assert op_names(graph) == ["relu"]
    assert graph.outputs[0].value is x


def test_a_chain_of_pass_throughs_ends_where_it_must():
    b = GraphBuilder()
    value = b.input()
    for _ in range(7):
        value = b.aten.neg(value)
    graph = b.outputs(value)
    assert apply(graph, double_negation) == 3
    assert op_names(graph) == ["neg"]


def test_two_chained_conv_add_relus_are_both_rewritten():
    b = GraphBuilder()
    x = b.input("x", f32[1, 3, 4, 4])
    graph = b.outputs(conv_block(b, conv_block(b, x, x), x))
    assert apply(graph, fuse_conv_add_relu) == 2
    assert op_names(graph) == ["conv2d", "add", "hardtanh"] * 2


def test_a_skip_around_the_block_is_found_on_either_side_of_the_add():
    b = GraphBuilder()
    x = b.input("x", f32[1, 3, 4, 4])
    first = conv_block(b, x, x)
    conv = b.aten.conv2d(first, b.constant("w2", torch.ones(3, 3, 1, 1)))
    graph = b.outputs(b.aten.relu(b.aten.add.Tensor(first, conv)))
    assert apply(graph, fuse_conv_add_relu) == 2


def test_a_matched_value_that_is_also_a_graph_output_keeps_its_rule_away():
    b = GraphBuilder()
    x = b.input("x", f32[1, 3, 4, 4])
    conv = b.aten.conv2d(x, b.constant("w", torch.ones(3, 3, 1, 1)))
    graph = b.outputs(b.aten.relu(b.aten.add.Tensor(conv, x)), conv)
    assert apply(graph, fuse_conv_add_relu) == 0


def test_an_inner_node_that_others_read_stays_when_the_rule_allows_it():
    b = GraphBuilder()
    inner = b.aten.neg(b.input())
    graph = b.outputs(b.aten.neg(inner), inner)
    apply(graph, double_negation)
    assert op_names(graph) == ["neg"]


def test_new_nodes_get_the_locations_of_all_they_replace():
    b = GraphBuilder()
    x = b.input("x", f32[1, 3, 4, 4])
    graph = b.outputs(conv_block(b, x, x))
    apply(graph, fuse_conv_add_relu)
    paths = [origin.module_path for origin in graph.node("relu").location.origins]
    assert paths == ["block.conv2d", "block.add", "block.relu"]


def test_a_replacement_computed_from_the_root_wraps_it():
    @rule(Op("aten.relu", ...).where(lambda n: all(u.op.short_name != "clone" for u in n.result.users), "unwrapped"))
    def wrap(match, rewriter):
        return rewriter.insert_after(match.root, "aten.clone", {"self": match.root.result})

    graph = relu_chain(2)
    assert apply(graph, wrap) == 2
    assert op_names(graph) == ["relu", "clone", "relu", "clone"]
    assert graph.outputs[0].value.node.op.short_name == "clone"
    assert all(node.result.use_count == 1 for node in graph.nodes)


def test_a_rule_that_reproduces_itself_runs_out_of_budget_and_is_named():
    @rule(Op("aten.relu", Any("x")))
    def again(match, rewriter):
        return rewriter.insert_before(match.root, "aten.relu", {"self": match["x"]})

    with pytest.raises(BudgetExceeded, match=r"cycling: 'again'; the last rewrites:\n  again at relu.* \(block.relu"):
        apply(relu_chain(2), again, relu_of_relu)


def test_rules_that_undo_each_other_are_both_named_and_the_step_is_told():
    @rule(Op("aten.relu", Any("x")))
    def there(match, rewriter):
        return rewriter.insert_before(match.root, "aten.clamp_min", {"self": match["x"]}, {"min": 0})

    @rule(Op("aten.clamp_min", Any("x"), min=0))
    def back(match, rewriter):
        return rewriter.insert_before(match.root, "aten.relu", {"self": match["x"]})

    class Endless(RewritePass):
        rules = (there, back)

    with pytest.raises(BudgetExceeded, match=r"141 rewrites, the budget is 140 for 2 nodes") as caught:
        run_pass(Endless(), relu_chain(2))
    assert "'there'" in str(caught.value)
    assert "'back'" in str(caught.value)
    assert "in step 'endless#1'" in caught.value.__notes__[0]


def test_an_edit_that_changes_nothing_again_and_again_runs_out_of_budget_too():
    @rule(Op("aten.relu", Any("x")))
    def set_the_same(match, rewriter):
        rewriter.set_operand(match.root, "self", match["x"])

    with pytest.raises(BudgetExceeded, match="set-the-same"):
        apply(relu_chain(2), set_the_same, budget=10)


def test_returning_the_root_itself_or_nothing_declines():
    @rule(Op("aten.relu", ...))
    def itself(match, rewriter):
        return match.root

    @rule(Op("aten.relu", ...))
    def nothing(match, rewriter):
        return None

    assert apply(relu_chain(2), itself, nothing) == 0


def test_a_rule_declines_in_its_check_or_its_rewrite_and_the_next_one_is_tried():
    log = []

    def no(match):
        return match.miss("a better day", "today")

    @rule(Op("aten.neg", ...), check=no)
    def first(match, rewriter):
        raise AssertionError

    @rule(Op("aten.neg", ...))
    def second(match, rewriter):
        log.append("second")
        return match.miss("something", "nothing")

    b = GraphBuilder()
    graph = b.outputs(b.aten.neg(b.aten.neg(b.input())))
    assert apply(graph, first, second, double_negation) == 1
    assert log == ["second"] * 2


def test_a_rule_that_changes_nothing_leaves_the_node_to_the_next_one():
    asked = []

    @rule(Op("aten.neg", Any("x")))
    def looks_only(match, rewriter):
        asked.append(match.root.name)

    assert apply(negated_twice(), looks_only, double_negation) == 1
    assert "neg_1" in asked


def negated_twice():
    b = GraphBuilder()
    return b.outputs(b.aten.neg(b.aten.neg(b.input())))


def test_a_node_that_nothing_reads_keeps_no_rule_from_the_others():
    b = GraphBuilder()
    x = b.input()
    b.aten.neg(x)
    graph = b.outputs(b.aten.neg(b.aten.neg(x)))
    assert apply(graph, double_negation) == 1


def test_what_is_edited_after_the_rules_is_a_rewrite_of_its_own():
    graph = negated_twice()
    relu = GraphBuilder(graph).node("aten.relu", graph.inputs[0].value)
    rewriter = Rewriter(graph)
    apply_rules([double_negation], graph, rewriter)
    assert (rewriter.rewrites.count, rewriter.listener) == (1, None)
    rewriter.erase(relu)
    assert rewriter.rewrites.count == 2
    assert rewriter.rewrites.last.title == "erase"


def test_mistakes_of_rules_are_told():
    @rule(Op("aten.relu", ...))
    def late_no(match, rewriter):
        rewriter.insert_before(match.root, "aten.relu", {"self": match.root.result})
        return match.miss("a", "b")

    @rule(Op("aten.relu", ...))
    def too_many(match, rewriter):
        return [match.root.result] * 2

    @rule(Op("aten.relu", ...), check=lambda match: False)
    def bad_check(match, rewriter):
        return None

    for wrong, message in [
        (
            late_no,
            r"'late-no' declined at relu \(block.relu .* after it had edited the graph: relu: expected a, found b",
        ),
        (too_many, "'too-many' returned 2 values for the 1 results of relu"),
        (bad_check, "the check of rule 'bad-check' returned False"),
    ]:
        with pytest.raises(PatternError, match=message):
            apply(relu_chain(1), wrong)


def test_an_exception_in_a_rewrite_names_the_root():
    @rule(Op("aten.relu", Op("aten.relu", ...)))
    def broken(match, rewriter):
        raise ZeroDivisionError("oh")

    class Broken(RewritePass):
        rules = (broken,)

    with pytest.raises(PassFailed, match="ZeroDivisionError: oh\n  node: relu_1") as caught:
        run_pass(Broken(), relu_chain(3))
    assert "> %relu_1" in str(caught.value)


def test_a_use_that_goes_away_makes_a_single_use_rule_match_later():
    b = GraphBuilder()
    tanh = b.aten.tanh(b.input())
    first = b.aten.relu(tanh)
    other = b.aten.neg(b.aten.neg(tanh))
    graph = b.outputs(first, b.aten.sigmoid(b.aten.sub.Tensor(other, other)))

    @rule(Op("aten.relu", Op("aten.tanh", Any("x"), single_use=True)))
    def fuse(match, rewriter):
        return rewriter.insert_before(match.root, "aten.hardtanh", {"self": match["x"]})

    @rule(Op("aten.sub", Any("a"), Any("a")))
    def zero(match, rewriter):
        return rewriter.add_constant("zero", torch.zeros(2, 4))

    @rule(Op("aten.neg", Op("aten.neg", Any("x"))).where(lambda n: n.is_dead, "dead"))
    def never(match, rewriter):
        raise AssertionError

    class Both(RewritePass):
        rules = (fuse, zero, never)

    from graphpress.passes.dce import Dce
    from graphpress.passes.framework import Pipeline, Repeat, Runner

    result = Runner(verify=False).run(graph, Pipeline(Repeat(Both(), Dce())))
    assert "hardtanh" in op_names(result.graph)


def test_rewrites_are_counted_by_rule():
    context = PassContext()
    apply(relu_chain(4), relu_of_relu, context=context)
    assert context.statistics == {"relu-of-relu": 3}
    assert context.node is None


def test_multi_output_nodes_are_replaced_result_by_result():
    b = GraphBuilder()
    chunk = b.node("aten.chunk", b.input(), 2, 1)
    graph = b.outputs(*chunk.results)

    @rule(Op("aten.chunk", Any("x"), chunks=2, dim=Attr("dim")))
    def as_slices(match, rewriter):
        made = []
        for start in (0, 2):
            span = {"dim": match["dim"], "start": start, "end": start + 2}
            made.append(rewriter.insert_before(match.root, "aten.slice.Tensor", {"self": match["x"]}, span).result)
        return made

    assert apply(graph, as_slices) == 1
    assert op_names(graph) == ["slice", "slice"]


def test_alternatives_at_the_root_are_indexed_by_each_op():
    @rule(OneOf(Op("aten.relu", Any("x")), Op("aten.neg", Any("x"))))
    def drop(match, rewriter):
        return match["x"]

    b = GraphBuilder()
    graph = b.outputs(b.aten.neg(b.aten.tanh(b.aten.relu(b.input()))))
    assert apply(graph, drop) == 2
    assert op_names(graph) == ["tanh"]


def test_constants_added_by_a_rule_reach_the_graph():
    @rule(Op("aten.mul", Any("x"), Constant("c", unshared=True)))
    def double(match, rewriter):
        if match.constant("c").name.startswith("doubled"):
            return match.miss("a fresh constant", "a doubled one")
        doubled = rewriter.add_constant("doubled", match.constant("c").tensor * 2)
        return rewriter.insert_before(match.root, "aten.mul.Tensor", {"self": match["x"], "other": doubled})

    b = GraphBuilder()
    x = b.input("x", f32[4])
    graph = b.outputs(b.aten.mul.Tensor(x, b.constant("c", torch.ones(4))))
    assert apply(graph, double) == 1
    assert graph.outputs[0].value.node.operand("other").constant.tensor.tolist() == [2.0] * 4
    assert list(graph.constants) == ["doubled"]  # what only the match read is gone: no constant may dangle


def big_graph(size):
    b = GraphBuilder()
    value = b.input("x", f32[4])
    for index in range(size // 4):
        value = b.aten.add.Tensor(b.aten.relu(b.aten.neg(value)), value)
        value = b.aten.tanh(value) if index % 2 else b.aten.sigmoid(value)
    return b.outputs(value)


def test_a_graph_without_matches_is_looked_at_once_and_only_where_a_root_could_be():
    looked = []

    def watch(node):
        looked.append(node)
        return False

    @rule(Op("aten.tanh", ...).where(watch, "never"))
    def never(match, rewriter):
        raise AssertionError

    graph = big_graph(400)
    assert apply(graph, never, relu_of_relu, fuse_conv_add_relu) == 0
    assert len(looked) == sum(name == "tanh" for name in op_names(graph))


def test_misses_are_values_not_exceptions():
    assert isinstance(relu_of_relu.match(relu_chain(1).node("relu")), Miss)


def report_speed():
    """Run by hand: seconds for graphs of 4,000 and 20,000 nodes without matches."""
    rules = [relu_of_relu, double_negation, fuse_conv_add_relu] * 10
    for size in (4000, 20000):
        graph = big_graph(size)
        start = time.perf_counter()
        apply(graph, *rules)
        print(size, time.perf_counter() - start)


if __name__ == "__main__":
    report_speed()

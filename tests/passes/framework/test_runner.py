from __future__ import annotations

import pytest

from graphpress.ir.errors import GraphpressError
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.framework import (
    Fact,
    FactError,
    Hook,
    Pass,
    PassError,
    PassFailed,
    Pipeline,
    PipelineError,
    Repeat,
    Runner,
    Violation,
    run_pass,
)
from graphpress.passes.framework.testing import GraphBuilder, op_names
from tests.passes.framework.sample_passes import relu_chain


class DropOneRelu(Pass):
    """Removes the last relu."""

    def run(self, graph, rewriter, context):
        nodes = [node for node in graph.nodes if node.op.short_name == "relu"]
        if nodes:
            rewriter.replace(nodes[-1], nodes[-1].operand("self"))
            context.count("relus")
            context.report(nodes[0], "still there")


class Fail(Pass):
    """Fails at the third node."""

    def run(self, graph, rewriter, context):
        for index, node in enumerate(graph.nodes):
            context.node = node
            if index == 2:
                self.fail(node)

    def fail(self, node):
        raise ValueError("bad news")


class Recorder(Hook):
    def __init__(self, name, log, fail_in=()):
        self.name, self.log, self.fail_in = name, log, fail_in

    def note(self, event):
        self.log.append(f"{self.name}.{event}")
        if event in self.fail_in:
            raise RuntimeError(f"{self.name} {event}")

    def before(self, step, graph):
        self.note("before")

    def after(self, step, graph, record):
        self.note("after")

    def failed(self, step, graph, error):
        self.note("failed")


def run(graph, *steps, hooks=(), **kwargs):
    return Runner(hooks, verify=False).run(graph, Pipeline(*steps), **kwargs)


def test_the_callers_graph_stays_as_it_is_unless_asked():
    graph = relu_chain(3)
    result = run(graph, DropOneRelu())
    assert op_names(graph) == ["relu"] * 3
    assert op_names(result.graph) == ["relu"] * 2
    assert run(graph, DropOneRelu(), in_place=True).graph is graph
    assert op_names(graph) == ["relu"] * 2


def test_records_hold_the_edits_the_rewriter_counted_and_what_the_pass_told():
    result = run(relu_chain(3), DropOneRelu(), Dce())
    first, second = result.records
    assert (first.address, first.added, first.removed, first.changed) == ("drop-one-relu#1", 0, 1, 1)
    assert first.statistics == {"relus": 1}
    assert str(first.reports[0]) == "relu (block.relu (Relu) at model.py:11): still there"
    assert first.seconds > 0
    assert second.edits == 0
    assert result.changed
    assert str(first) == "drop-one-relu#1: 1 removed, 1 changed"
    assert str(second) == "dce#1: nothing changed"
    assert result.record("dce") is second
    with pytest.raises(PipelineError, match="did you mean 'dce#1'"):
        result.record("dce#2")


def test_a_repeat_stops_after_the_first_round_that_changes_nothing():
    result = run(relu_chain(2), Repeat(DropOneRelu(), Dce(), max=8))
    assert [record.step.label for record in result] == [
        f"{n}@{i}" for i in (1, 2, 3) for n in ("drop-one-relu#1", "dce#1")
    ]
    assert result.unsettled == ()


def test_a_repeat_that_runs_out_of_rounds_says_so():
    result = run(relu_chain(5), Repeat(DropOneRelu(), max=2))
    assert op_names(result.graph) == ["relu"] * 3
    assert result.unsettled == ("repeat#1",)


def test_hooks_nest_last_in_first_out():
    log = []
    run(relu_chain(1), Dce(), hooks=[Recorder("a", log), Recorder("b", log)])
    assert log == ["a.before", "b.before", "b.after", "a.after"]


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ("pass", ["a.before", "b.before", "c.before", "c.failed", "b.failed", "a.failed"]),
        ("before", ["a.before", "b.before", "a.failed"]),
        ("after", ["a.before", "b.before", "c.before", "c.after", "b.after", "a.failed"]),
        ("failed", ["a.before", "b.before", "c.before", "c.failed", "b.failed", "a.failed"]),
    ],
)
def test_every_hook_that_was_entered_is_left_exactly_once_whatever_fails(failing, expected):
    log = []
    hooks = [Recorder("a", log), Recorder("b", log, [failing]), Recorder("c", log)]
    with pytest.raises((PassFailed, RuntimeError)) as caught:
        run(relu_chain(3), Fail() if failing in ("pass", "failed") else Dce(), hooks=hooks)
    assert log == expected
    if failing == "failed":
        assert isinstance(caught.value, PassFailed)
        assert "the hook Recorder failed too: RuntimeError: b failed" in caught.value.__notes__


def test_a_step_that_a_hook_does_not_allow_is_skipped():
    class NoDrops(Hook):
        def allow(self, step, graph):
            return step.pass_.name != "drop-one-relu"

    log = []
    result = run(relu_chain(2), DropOneRelu(), Dce(), hooks=[NoDrops(), Recorder("a", log)])
    assert [record.skipped for record in result] == [True, False]
    assert op_names(result.graph) == ["relu"] * 2
    assert log == ["a.before", "a.after"]
    assert str(result.records[0]) == "drop-one-relu#1: skipped"


def test_an_exception_tells_step_node_module_path_source_line_and_the_graph_around():
    with pytest.raises(PassFailed) as caught:
        run(relu_chain(9), Dce(), Fail())
    message = str(caught.value)
    assert message.startswith("step 'fail#1' failed: ValueError: bad news\n  node: relu_2 (aten.relu)")
    assert "module: block.relu_2 (Relu)" in message
    assert "source: model.py:13" in message
    assert "> %relu_2: f32[2, 4] = aten.relu(self=%relu_1)" in message
    assert "%relu_5" in message
    assert "%relu_6" not in message
    assert isinstance(caught.value.__cause__, ValueError)
    assert (caught.value.address, caught.value.node_name) == ("fail#1", "relu_2")


def test_what_a_pass_says_about_its_users_request_keeps_its_type():
    class Refuse(Fail):
        def fail(self, node):
            raise PassError("no such layer", node)

    with pytest.raises(PassError, match="no such layer") as caught:
        run(relu_chain(3), Refuse())
    assert caught.value.__notes__[0].startswith(
        "in step 'refuse#1'\n  node: relu_2 (aten.relu)\n  module: block.relu_2"
    )


def test_a_broken_edit_is_a_defect_of_the_pass():
    class EraseUsed(Fail):
        def fail(self, node):
            node.graph.erase(node.operand("self").node)

    with pytest.raises(PassFailed, match="GraphError: cannot erase relu_1: relu_2 still reads it"):
        run(relu_chain(3), EraseUsed())


def test_the_verifier_runs_on_results_by_default():
    class Corrupt(Pass):
        def run(self, graph, rewriter, context):
            first, second = list(graph.nodes)[:2]
            rewriter.set_operand(first, "self", second.result)

    with pytest.raises(GraphpressError) as caught:
        Runner().run(relu_chain(2), Pipeline(Corrupt()))
    assert "from the hook Verify at step 'corrupt#1'" in caught.value.__notes__
    run(relu_chain(2), Corrupt())


def test_facts_are_checked_on_the_result_of_the_pass_that_gives_them():
    def no_relu(graph):
        for node in graph.nodes:
            if node.op.short_name == "relu":
                yield Violation("is a relu", node)

    class Promise(DropOneRelu):
        name = "promise"
        gives = Fact("no-relu", "nothing is a relu", no_relu)

    run(relu_chain(1), Promise())
    with pytest.raises(FactError) as caught:
        run(relu_chain(6), Promise())
    lines = str(caught.value).split("\n")
    assert lines[0] == "step 'promise#1' gives 'no-relu' (nothing is a relu), but its result does not have it:"
    assert lines[1] == "  relu (aten.relu, block.relu (Relu) at model.py:11): is a relu"
    assert lines[-1] == "  and 2 more"


def test_one_pass_runs_by_itself_with_the_facts_it_needs_assumed():
    class Needy(Dce):
        name = "needy"
        needs = Fact("unheard-of")

    assert run_pass(Needy(), relu_chain(1)).records[0].address == "needy#1"


def test_nothing_is_printed(capfd):
    builder = GraphBuilder()
    x = builder.input()
    run(builder.outputs(builder.aten.relu(x)), Cse(), Dce())
    assert capfd.readouterr() == ("", "")


def test_a_runner_is_no_other_runner():
    one, other = Runner(), Runner()
    assert one != other
    assert len({one, other}) == 2

from __future__ import annotations

import pytest
import torch

from graphpress.ir.interpreter import InterpreterError
from graphpress.passes.dce import Dce
from graphpress.passes.framework import (
    CLOSE,
    LOSSY,
    NumericDrift,
    Pass,
    PassFailed,
    Pipeline,
    Repeat,
    RewritePass,
    Runner,
    rule,
)
from graphpress.passes.framework.hooks import Dump, Numerics, Progress, Statistics, Timing
from graphpress.passes.framework.patterns import Any, Attr, Op
from graphpress.passes.framework.testing import GraphBuilder
from tests.passes.framework.sample_passes import relu_chain


@rule(Op("aten.relu", Op("aten.relu", Any("x"), name="inner")))
def drop_relu(match, rewriter):
    return match["inner"].result


class DropRelus(RewritePass):
    rules = (drop_relu,)


class Scale(Pass):
    """Changes every factor by a little: a pass that is not what it says."""

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            if node.op.short_name == "mul":
                rewriter.set_attribute(node, "other", node.attribute("other") * 1.01)


class ScaleClosely(Scale):
    effect = CLOSE(rtol=1e-5)


class ScaleRoughly(Scale):
    effect = LOSSY(0.05)


class Fail(Pass):
    def run(self, graph, rewriter, context):
        raise ValueError("bad")


def scaled():
    b = GraphBuilder()
    x = b.input()
    return b.outputs(b.aten.relu(x), b.aten.mul.Tensor(x, 2.0))


def run(graph, *steps, hook):
    return Runner([hook]).run(graph, Pipeline(*steps))


def inputs():
    return [torch.linspace(-1, 1, 8).reshape(2, 4)]


def test_numerics_holds_a_pass_to_its_effect_and_names_the_step_and_the_output():
    for wrong in (Scale(), ScaleClosely()):
        with pytest.raises(NumericDrift) as caught:
            run(scaled(), Dce(), wrong, hook=Numerics(inputs()))
        assert f"step '{wrong.name}#1' is {wrong.effect}, but moved output 1 by" in str(caught.value)
        assert "computed by mul (aten.mul.Tensor), block.mul (Mul) at model.py:12" in str(caught.value)


def test_numerics_leaves_the_drift_on_the_record():
    result = run(scaled(), Dce(), ScaleRoughly(), ScaleRoughly(), hook=Numerics(inputs()))
    first, second, third = result.records
    assert [d.error for d in first.drift] == [0, 0]
    assert [d.output for d in second.drift] == [0, 1]
    assert second.drift[1].error == pytest.approx(0.01, rel=1e-3)
    assert third.drift[1].error == pytest.approx(0.01, rel=1e-3)  # against the step before, not the start
    assert second.drift[1].allowed == 0.05


def test_numerics_compares_what_is_written_to_buffers_too():
    def graph():
        b = GraphBuilder()
        x = b.input()
        state = b.constant("state", torch.zeros(2, 4), "buffer")
        b.write(state, b.aten.mul.Tensor(x, 2.0))
        return b.outputs(b.aten.relu(x))

    with pytest.raises(NumericDrift, match="moved what is written to 'state'"):
        run(graph(), Scale(), hook=Numerics(inputs()))


def test_numerics_gives_random_ops_one_seed_and_keeps_the_callers():
    b = GraphBuilder()
    x = b.input()
    graph = b.outputs(b.aten.relu(b.aten.relu(b.aten.dropout(x, 0.5, True))))
    state = torch.get_rng_state()
    run(graph, DropRelus(), hook=Numerics(inputs()))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_inside_a_hook_says_which_hook_and_step():
    with pytest.raises(InterpreterError) as caught:
        run(scaled(), Dce(), hook=Numerics([]))
    assert "from the hook Numerics at step 'dce#1'" in caught.value.__notes__


def names(dump):
    return [path.name for path in dump.files]


def test_dump_writes_numbered_files_that_parse_back(tmp_path):
    from graphpress.ir.text.parser import parse_graph

    dump = Dump(tmp_path / "new" / "folder")
    result = run(relu_chain(3), Dce(), Repeat(DropRelus(), max=2), hook=dump)
    assert names(dump) == ["000-start.txt", "001-dce-1.txt", "002-drop-relus-1-1.txt", "003-drop-relus-1-2.txt"]
    assert parse_graph(dump.files[-1].read_text()) == result.graph


def test_dump_leaves_out_what_did_not_change_or_was_not_asked_for(tmp_path):
    dump = Dump(tmp_path, only_changed=True)
    run(relu_chain(3), Dce(), DropRelus(), Dce(), hook=dump)
    assert names(dump) == ["000-start.txt", "002-drop-relus-1.txt"]
    for wanted in (["dce#2"], "dce#2", lambda step: step.address == "dce#2"):
        dump = Dump(tmp_path, filter=wanted)
        run(relu_chain(3), Dce(), DropRelus(), Dce(), hook=dump)
        assert names(dump) == ["000-start.txt", "003-dce-2.txt"]


def test_dump_shows_what_a_failing_step_left(tmp_path):
    dump = Dump(tmp_path)
    with pytest.raises(PassFailed):
        run(relu_chain(1), Fail(), hook=dump)
    assert names(dump) == ["000-start.txt", "001-fail-1-failed.txt"]
    assert dump.files[1].read_text().startswith("// PassFailed: step 'fail#1' failed: ValueError: bad\n")


def test_timing_is_a_tree_that_follows_the_repeats():
    timing = Timing()
    result = run(relu_chain(3), Dce(), Repeat(DropRelus(), Repeat(Dce())), hook=timing)
    assert list(timing.root.children) == ["dce#1", "repeat#1"]
    repeat = timing.root.children["repeat#1"]
    assert list(repeat.children) == ["drop-relus#1", "repeat#2"]
    assert repeat.children["drop-relus#1"].calls == 2
    assert timing.root.seconds == pytest.approx(result.seconds)
    assert [line.rpartition("  ")[2] for line in str(timing).split("\n")[1:]] == [
        "pipeline",
        "dce#1",
        "repeat#1",
        "drop-relus#1",
        "repeat#2",
        "dce#2",
    ]


def test_statistics_add_up_over_rounds():
    statistics = Statistics()
    run(relu_chain(3), Dce(), Repeat(DropRelus(), max=3), hook=statistics)
    assert statistics.by_step["drop-relus#1"] == {"nodes removed": 2, "edits": 2, "drop-relu": 2}
    assert statistics.totals["nodes removed"] == 2
    assert str(statistics) == "drop-relus#1: nodes removed 2, edits 2, drop-relu 2"


def test_progress_calls_back_as_steps_start_and_end():
    seen = []
    progress = Progress(lambda step, state: seen.append((step.index, step.total, step.address, state.value)))
    with pytest.raises(PassFailed):
        run(relu_chain(1), Dce(), Fail(), hook=progress)
    assert seen == [
        (0, 2, "dce#1", "running"),
        (0, 2, "dce#1", "done"),
        (1, 2, "fail#1", "running"),
        (1, 2, "fail#1", "failed"),
    ]


def test_attributes_captured_by_rules_survive_numerics():
    @rule(Op("aten.mul", Op("aten.mul", Any("x"), Attr("a")), Attr("b")))
    def merge(match, rewriter):
        factor = match["a"] * match["b"]
        return rewriter.insert_before(match.root, "aten.mul.Tensor", {"self": match["x"]}, {"other": factor})

    class MergeFactors(RewritePass):
        effect = CLOSE()
        rules = (merge,)

    b = GraphBuilder()
    graph = b.outputs(b.aten.mul.Tensor(b.aten.mul.Tensor(b.input(), 3.0), 0.1))
    result = run(graph, MergeFactors(), hook=Numerics(inputs()))
    assert len(result.graph.nodes) == 1

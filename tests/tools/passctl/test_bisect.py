"""passctl bisect, repro and reduce: from a bad result to the rewrite, and from a failure to a small one."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from graphpress.ir import load_graph, parse_graph, save_graph
from graphpress.passes.framework import PassFailed, Pipeline, Runner
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.hooks import ReproducerOnFailure
from graphpress.passes.framework.testing import op_names
from graphpress.tools.passctl.main import cli
from tests.passes.framework.failing_passes import SampleCrash, SampleOptionCrash, conv_blocks

torch.set_num_threads(1)
PASSCTL = Path(sys.executable).with_name("passctl")
FOLD = ("-p", "cse,sample-wrong-sign,dce", "--assume", "canonical")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a small graph, a graph of over 300 nodes, and a command that finds negations bad."""
    folder = tmp_path_factory.mktemp("bisect")
    save_graph(conv_blocks(6, strided=(3,), channels=4, size=8), folder / "small.gir")
    save_graph(conv_blocks(90, strided=(57,), channels=4, size=8), folder / "large.gir")
    (folder / "check.py").write_text("import sys; sys.exit('aten.neg' in open(sys.argv[-1]).read())\n")
    return folder


@pytest.fixture(autouse=True)
def workspace(saved, monkeypatch):
    monkeypatch.chdir(saved)
    monkeypatch.setattr(sys, "path", [*sys.path])


def passctl(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == code, result.output
    return result


def check(text: str = "check.py") -> str:
    return shlex.join([sys.executable, text])


def test_a_wrong_sign_in_one_rewrite_of_a_large_model_is_found_and_made_small(tmp_path):
    bad, small = str(tmp_path / "bad"), tmp_path / "small"
    data = json.loads(passctl("bisect", "large.gir", *FOLD, "--save", bad, "--json", code=1).stdout)
    assert data["step"] == "sample-wrong-sign#1"
    rewrite = data["rewrite"]
    assert (rewrite["number"], rewrite["first"], rewrite["total"]) == (58, 58, 90)
    assert (rewrite["node"], rewrite["op"]) == ("norm57", "aten.batch_norm")
    assert rewrite["location"][0]["module"] == "block.norm57"
    assert rewrite["location"][0]["file"] == "model.py"
    assert any(line.startswith("+ %neg:") for line in rewrite["diff"])
    result = passctl("reduce", bad, "-o", str(small))
    assert op_names(parse_graph(result.stdout)) == ["conv2d", "batch_norm"]
    assert re.search(r"\n3\d\d nodes to 2 in \d+ trials\npipeline: sample-wrong-sign to ", result.stderr)
    assert "reproduced: NumericDrift in sample-wrong-sign" in passctl("repro", str(small), code=1).stdout


def test_the_report_names_step_rewrite_node_module_and_source_line():
    text = passctl("bisect", "small.gir", *FOLD, code=1).stdout
    assert "first bad step: sample-wrong-sign#1\n  NumericDrift: step 'sample-wrong-sign#1' is CLOSE" in text
    assert "first bad rewrite 4 of 6: insert fold.batch_norm_factor\n  node: norm3 (aten.batch_norm)" in text
    assert "module: block.norm3 (Batch_Norm)\n  source: model.py:" in text
    assert "\n    - %norm3: f32[1, 4, 4, 4] = aten.batch_norm(" in text


def test_a_command_checks_saved_graphs():
    result = passctl("bisect", "small.gir", *FOLD, "--check", check(), code=1)
    assert (
        "first bad step: sample-wrong-sign#1\n  the check fails on its result\nfirst bad rewrite 4 of 6"
        in result.stdout
    )
    assert result.stderr.splitlines()[0] == "check 1: 20 nodes, good"


def test_nothing_bad_is_exit_code_0():
    assert passctl("bisect", "small.gir", "-p", "canonicalize,fold-batch-norm").stdout == "nothing is bad\n"
    assert json.loads(passctl("bisect", "small.gir", "-p", "cse", "--json").stdout) == {"found": False}


def test_all_steps_can_be_held_to_one_tolerance():
    text = passctl("bisect", "small.gir", "-p", "canonicalize,fold-batch-norm", "--rtol", "1e-12", code=1).stdout
    assert "first bad step: fold-batch-norm#1" in text
    passctl("bisect", "small.gir", "-p", "canonicalize,fold-batch-norm", "--rtol", "1e-3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bisect", "small.gir"], "bisect needs a --pipeline"),
        (["bisect", "small.gir", "-p", "cse", "--check", "false"], "the graph is bad before the first step"),
        (["bisect", "small.gir", "-p", "cse", "--check", "no-such-command"], "cannot be run: No such file"),
        (["bisect", "small.gir", "-p", "cse", "--check", "sh -c 'echo oh >&2; exit 3'"], "exited with 3; accepted: 0"),
        (["bisect", "small.gir", "-p", "cse", "--check", "'"], "is not a valid command"),
        (["bisect", "small.gir", "-p", "cse", "--rtol", "1", "--check", "true"], "--rtol needs --check numerics"),
        (["bisect", "small.gir", "-p", "cse", "--import", "no_such"], "--import no_such: ModuleNotFoundError"),
        (["repro", "."], "is not a reproducer: it has no bundle.json"),
        (["reduce", "nowhere"], "is not a reproducer"),
    ],
)
def test_what_cannot_be_done_is_explained(arguments, message):
    result = passctl(*arguments, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_passes_with_options_are_replayed_with_them(tmp_path):
    with pytest.raises(PassFailed):
        Runner([ReproducerOnFailure(tmp_path / "b")]).run(conv_blocks(2), Pipeline(SampleOptionCrash("add", extra=5)))
    assert (tmp_path / "b" / "pipeline.txt").read_text() == 'sample-option-crash{op="add",extra=5}\n'
    assert passctl("repro", str(tmp_path / "b"), code=1).stdout.startswith("reproduced")


def crashed(folder: Path, op: str = "relu") -> Path:
    with pytest.raises(PassFailed):
        Runner([ReproducerOnFailure(folder)]).run(conv_blocks(4), Pipeline(SampleCrash(op)))
    return folder


def test_a_reproducer_of_a_crash_is_replayed_and_made_small(tmp_path):
    bundle = str(crashed(tmp_path / "bundle"))
    text = passctl("repro", bundle, code=1).stdout
    assert text.startswith("reproduced: PassFailed (ZeroDivisionError) in sample-crash\n")
    assert "node: relu0 (aten.relu)" in text
    data = json.loads(passctl("reduce", bundle, "--json").stdout)
    assert (data["nodes"], data["steps"], data["is_minimal"]) == (1, 1, True)
    assert data["bundle"] == f"{bundle}-reduced"
    assert op_names(Bundle.load(data["bundle"]).graph) == ["relu"]
    assert json.loads(passctl("repro", data["bundle"], "--json", code=1).stdout)["reproduced"]


def test_what_does_not_fail_any_more_or_fails_otherwise_is_told(tmp_path):
    bundle = crashed(tmp_path / "bundle")
    (bundle / "pipeline.txt").write_text("cse\n")
    assert passctl("repro", str(bundle)).stdout.startswith("no longer fails: PassFailed")
    assert "does not fail, so there is nothing to reduce" in passctl("reduce", str(bundle), code=2).stderr
    (bundle / "pipeline.txt").write_text('sample-option-crash{op="add"}\n')
    text = passctl("repro", str(bundle), code=1).stdout
    assert text.startswith("fails differently: PassFailed (ZeroDivisionError) in sample-option-crash")
    assert "expected: PassFailed (ZeroDivisionError) in sample-crash" in text


def test_a_command_is_run_only_when_it_is_given_again(tmp_path):
    bad = str(tmp_path / "bad")
    passctl("bisect", "small.gir", *FOLD, "--check", check(), "--save", bad, code=1)
    assert Bundle.load(bad).failure.is_check
    assert "is run only if you pass it with --check" in passctl("repro", bad, code=2).stderr
    assert "reproduced: bad by a command" in passctl("repro", bad, "--check", check(), code=1).stdout
    data = json.loads(passctl("reduce", bad, "--check", check(), "--json").stdout)
    assert (data["nodes"], data["pipeline"]) == (2, "sample-wrong-sign")


@pytest.mark.slow
def test_passes_of_modules_that_no_entry_point_names_are_imported(tmp_path, saved):
    (saved / "my_passes.py").write_text(MY_PASSES)
    bisect = [PASSCTL, "bisect", "small.gir", "-p", "sample-tanh", "--save", str(tmp_path / "bad")]
    done = subprocess.run([*bisect, "--import", "my_passes"], cwd=saved, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "first bad rewrite 3 of 6: insert aten.tanh\n  node: relu2 (aten.relu)" in done.stdout
    text = passctl("repro", str(tmp_path / "bad"), code=2).stderr
    assert "come from my_passes, which may have to be imported first: no pass 'sample-tanh'" in text
    reduce = [PASSCTL, "reduce", str(tmp_path / "bad"), "--import", "my_passes"]
    done = subprocess.run(reduce, cwd=saved, capture_output=True, text=True, check=True)
    assert op_names(parse_graph(done.stdout)) == ["relu"]
    repro = [PASSCTL, "repro", str(tmp_path / "bad-reduced"), "--import", "my_passes"]
    done = subprocess.run(repro, cwd=saved, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n")[0]) == (1, "reproduced: NumericDrift in sample-tanh")


MY_PASSES = """
from attrs import frozen
from graphpress.passes.framework import Pass, register_pass

@register_pass
@frozen
class SampleTanh(Pass):
    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            if node.op.short_name == "relu":
                op = "aten.tanh" if node.name == "relu2" else "aten.relu"
                made = rewriter.insert_before(node, op, {"self": node.operand("self")})
                rewriter.replace(node, made.result)
"""


def test_the_small_graph_is_a_file_like_any_other(tmp_path):
    bundle = crashed(tmp_path / "bundle")
    passctl("reduce", str(bundle), "-o", str(tmp_path / "small"))
    assert len(load_graph(tmp_path / "small" / "graph.gir").nodes) == 1
    assert op_names(parse_graph(passctl("dump", str(tmp_path / "small" / "graph.gir")).stdout)) == ["relu"]

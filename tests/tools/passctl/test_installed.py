"""Each command of passctl as installed: what goes to stdout, what to stderr, exit codes, --json."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pydot
import pytest
import torch
from torch import nn

from graphpress.ir import from_module, load_graph, parse_graph, save_graph
from graphpress.tools.passctl.main import COMMANDS

PASSCTL = Path(sys.executable).with_name("passctl")
slow = pytest.mark.slow

FAULTY = """
from attrs import frozen
from graphpress.passes.framework import Pass, register_pass

@register_pass
@frozen
class TurnRelu(Pass):
    \"\"\"Says that it changes nothing, and makes a relu a tanh.\"\"\"

    name = "turn-relu"

    def run(self, graph, rewriter, context):
        for node in list(graph.nodes):
            if node.op.short_name == "relu":
                made = rewriter.insert_before(node, "aten.tanh", {"self": node.operand("self")})
                rewriter.replace(node, made.result)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with ``net.gir``, a copy with other names ``same.gir``, and a module with a faulty pass."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)
    graph = from_module(nn.Sequential(*layers).eval(), (torch.randn(1, 3, 5, 5),))
    made = tmp_path_factory.mktemp("installed")
    save_graph(graph, made / "net.gir")
    for node in graph.nodes:
        node.name = f"other_{node.name}"
    save_graph(graph, made / "same.gir")
    (made / "faulty.py").write_text(FAULTY)
    return made


@pytest.fixture
def passctl(folder):
    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [PASSCTL, *arguments]
        plain = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=plain)
        assert done.returncode == code, done.stderr
        assert "\x1b" not in done.stdout + done.stderr  # this is no terminal
        return done

    return run


def data(done: subprocess.CompletedProcess[str]):
    return json.loads(done.stdout)


# help and completion


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_an_example(passctl, name):
    text = passctl(name, "--help").stdout
    assert re.search(rf"^ +passctl {name}\b", text, re.MULTILINE)
    assert "--json" in text


def test_the_shell_completes_commands_and_formats(passctl):
    words = {"_PASSCTL_COMPLETE": "bash_complete"}
    assert "plain,bisect" in passctl(**words, COMP_WORDS="passctl bi", COMP_CWORD="1").stdout
    formats = passctl(**words, COMP_WORDS="passctl dump net.gir --format ", COMP_CWORD="4").stdout
    assert [line.partition(",")[2] for line in formats.split()] == ["text", "json", "dot", "html"]


def test_misuse_is_code_2_and_leaves_stdout_empty(passctl):
    for arguments, message in [
        (("dmp",), "did you mean 'dump'"),
        (("dump", "net.gir", "--json", "--format", "dot"), "--json and --format dot exclude each other"),
        (("dump", "net.gir", "--format", "pdf"), "'pdf' is not one of"),
        (("diff", "net.gir"), "diff takes two models"),
    ]:
        done = passctl(*arguments, code=2)
        assert done.stdout == ""
        assert message in done.stderr


# the rows


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "suffix"), [("coreai", "aimodel"), ("coreml", "mlpackage")])
def test_compress_prunes_and_palettizes(passctl, folder, backend, suffix):
    pytest.importorskip("coreai_torch")
    pytest.importorskip("coremltools")
    (folder / "sparse.yaml").write_text(
        "pruning_config: {global_config: {op_state_spec: {weight: {target_sparsity: 0.75}}}}\n"
        "kmeans_palettization_config: {global_config: {op_state_spec: {weight: {n_bits: 4}}}}\n"
    )
    output = f"sparse.{suffix}"
    found = data(
        passctl("compress", "net.gir", "--config", "sparse.yaml", "--backend", backend, "-o", output, "--json")
    )
    assert found["check"]["ok"]
    assert found["output"] == output
    dumped = passctl("dump", output).stdout
    assert dumped.count(" = quant.lut_to_dense(") == dumped.count(" = quant.sparse_to_dense(") == 2


@slow
def test_list(passctl):
    assert re.search(r"^fold-batch-norm +Fold each batch norm", passctl("list").stdout, re.MULTILINE)
    page = passctl("list", "fold-batch-norm").stdout
    for word in ("Options", "Needs:", "Gives:", "Effect: CLOSE", "From: graphpress"):
        assert word in page
    assert data(passctl("list", "dce", "--json"))["name"] == "dce"
    assert "did you mean 'dce'" in passctl("list", "dec", code=2).stderr


@slow
def test_dump_as_text_and_json_and_dot(passctl, tmp_path):
    fold = ("dump", "net.gir", "-p", "canonicalize,fold-batch-norm,fold-constants,dce")
    before, after = passctl(*fold, "--before", "fold-batch-norm"), passctl(*fold, "--after", "fold-constants")
    assert [node.op.short_name for node in parse_graph(before.stdout).nodes][:2] == ["conv2d", "batch_norm"]
    assert "batch_norm" not in [node.op.short_name for node in parse_graph(after.stdout).nodes]
    assert "fold-batch-norm#1: " in after.stderr
    changed = passctl(*fold, "--changed").stdout
    assert re.findall(r"^// (.*?);? .*$", changed, re.MULTILINE)[0].startswith("captured") or "// captured" in changed
    assert "// after fold-batch-norm#1" in changed
    for hops, count in (("1", 3), ("2", 5)):
        near = passctl("dump", "net.gir", "--focus", "relu", "--hops", hops).stdout
        assert len(parse_graph(near).nodes) == count
    assert data(passctl("dump", "net.gir", "--format", "json")) == data(passctl("dump", "net.gir", "--json"))
    drawings = pydot.graph_from_dot_data(passctl(*fold, "--changed", "--format", "dot").stdout)
    assert len(drawings) == 3
    captured, folded, _ = drawings
    shown = {node.get_name().strip('"') for node in captured.get_nodes()}
    assert {"%conv2d", "%batch_norm", "%relu", "@0.weight", "output 0"} <= shown
    edges = {(edge.get_source().strip('"'), edge.get_destination().strip('"')) for edge in captured.get_edges()}
    assert {("%conv2d", "%batch_norm"), ("@0.weight", "%conv2d")} <= edges
    coloured = [node for node in folded.get_nodes() if "#fdf0d5" in str(node.get("fillcolor"))]
    assert '"%conv2d"' in [node.get_name() for node in coloured]
    passctl("dump", "net.gir", "-o", str(tmp_path / "net.dot"))
    assert (tmp_path / "net.dot").read_text().startswith("digraph")


@slow
def test_dump_as_a_page(passctl, tmp_path):
    done = passctl("dump", "net.gir", "-p", "prepare", "--focus", "relu", "-o", str(tmp_path / "net.html"))
    assert done.stdout == ""
    assert "steps ran" in done.stderr
    text = (tmp_path / "net.html").read_text(encoding="utf-8")
    found = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert found["opening"] == {"focus": "relu", "hops": 2}
    assert "insert-fake-quant#1" in [step["label"] for step in found["steps"]]
    assert passctl("dump", "net.gir", "--format", "html").stdout.startswith("<!doctype html>")
    wrong = ("dump", "net.gir", "-p", "prepare", "--focus", "rellu", "--format", "html")
    assert "no node 'rellu' at any step; did you mean 'relu'" in passctl(*wrong, code=2).stderr


@slow
def test_run(passctl, tmp_path):
    out = tmp_path / "out.gir"
    run = ("run", "net.gir", "-p", "canonicalize,fold-batch-norm,fold-constants,dce", "-o", str(out))
    done = passctl(*run, "--stop-after", "fold-constants", "--timing", "--stats")
    assert "100.0%" in done.stderr
    assert "fold-batch-norm#1: " in done.stderr
    assert "dce#1" not in done.stderr
    assert "batch_norm" not in [node.op.short_name for node in load_graph(out).nodes]
    assert [step["step"] for step in data(passctl(*run, "--json"))["steps"]][-1] == "dce#1"


@slow
def test_diff(passctl):
    passctl("diff", "net.gir", "same.gir")
    fold = ("diff", "net.gir", "-p", "canonicalize,fold-batch-norm")
    assert "batch_norm" in passctl(*fold, "--step", "2", code=1).stdout
    passctl(*fold, "--step", "canonicalize")
    assert data(passctl(*fold, "--json", code=1))["same"] is False
    assert "no step number 3" in passctl(*fold, "--step", "3", code=2).stderr


@slow
def test_verify(passctl):
    fold = ("verify", "net.gir", "-p", "canonicalize,fold-batch-norm")
    done = passctl(*fold, "--numerics")
    assert done.stdout == "ok\n"
    assert "drift" in done.stderr
    assert data(passctl(*fold, "--json"))["ok"] is True
    faulty = passctl("verify", "net.gir", "-p", "turn-relu", "--numerics", "--import", "faulty", code=1)
    assert faulty.stdout == "1 problem\n"
    assert "step 'turn-relu#1' is EXACT" in faulty.stderr


@slow
def test_explain_a_rule_and_a_value(passctl):
    assert "batch_norm" in passctl("explain", "net.gir", "fold-batch-norm").stdout
    at = passctl("explain", "net.gir", "fold-batch-norm", "--node", "batch_norm").stdout
    assert "batch_norm" in at
    assert "did you mean" in passctl("explain", "net.gir", "fold-batch-norm", "--node", "batch_nrm", code=2).stderr
    value = passctl("explain", "net.gir", "--value", "relu").stdout
    assert "is quantized" in value
    assert "global_config.op_output_spec" in value
    whole = passctl("explain", "net.gir", "--value", "4.bias").stdout
    assert "is not quantized" in whole
    assert "a constant of fewer than two axes is not a weight" in whole
    assert data(passctl("explain", "net.gir", "--value", "4.weight", "--json"))[0]["is_quantized"] is True


@slow
def test_bisect_repro_and_reduce(passctl, tmp_path):
    bad = str(tmp_path / "bad")
    faulty = ("bisect", "net.gir", "-p", "canonicalize,turn-relu,dce", "--import", "faulty")
    found = passctl(*faulty, "--save", bad, code=1).stdout
    assert "turn-relu#1" in found
    assert "first bad rewrite 1 of 2" in found or "insert aten.tanh" in found
    assert passctl("bisect", "net.gir", "-p", "canonicalize,dce").stdout == "nothing is bad\n"
    (tmp_path / "check.py").write_text(
        "import sys\n"
        "from graphpress.ir import load_graph\n"
        "sys.exit(any(node.op.short_name == 'tanh' for node in load_graph(sys.argv[-1]).nodes))\n"
    )
    checked = passctl(*faulty, "--check", f"{sys.executable} {tmp_path / 'check.py'}", "--json", code=1)
    assert "turn-relu#1" in json.dumps(data(checked))
    assert "reproduced" in passctl("repro", bad, "--import", "faulty", code=1).stdout
    reduced = parse_graph(passctl("reduce", bad, "--import", "faulty").stdout)
    assert [node.op.short_name for node in reduced.nodes] == ["relu"]
    assert "reproduced" in passctl("repro", f"{bad}-reduced", "--import", "faulty", code=1).stdout


@slow
def test_bench(passctl):
    bench = ("bench", "net.gir", "-p", "canonicalize,dce", "--copies", "1", "--copies", "4", "--repeats", "1")
    assert re.search(r"canonicalize#1 +\d", passctl(*bench).stdout)
    first, last = data(passctl(*bench, "--json"))
    assert last["nodes"] == 4 * first["nodes"]

"""passctl shows, runs, checks and compares graphs; text goes to stdout, the rest to stderr; errors are messages."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import frozen
from click.testing import CliRunner, Result

from graphpress.ir import difference, load_graph, parse_graph, save_graph
from graphpress.passes.config import KMeansPalettizerConfig
from graphpress.passes.framework import EXACT, Pass, register_pass, registered_rules, unregister_pass
from graphpress.passes.palettize_weights import PalettizeWeights
from graphpress.tools.passctl.main import COMMANDS, cli

PASSCTL = Path(sys.executable).with_name("passctl")

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, image, scale=None):
        out = torch.relu(self.norm(self.conv(image)))
        return out if scale is None else out * scale

def net():
    torch.manual_seed(0)
    made = Net().eval()
    nn.init.uniform_(made.norm.running_mean)
    return made

def with_inputs():
    return net(), (torch.randn(1, 3, 5, 5),)

def needs_arguments(width): ...
def fails(): raise ValueError("no weights today")
def gives_text(): return "text"
number = 3
"""


SUM = """
graph @main {
  input %x: f32[2, 4]
  %relu: f32[2, 4] = aten.relu(self=%x) loc(0)
  %relu_1: f32[2, 4] = aten.relu(self=%x) loc(0)
  %add: f32[2, 4] = aten.add.Tensor(self=%relu, other=%relu_1) loc(1)
  %mul: f32[2, 4] = aten.mul.Tensor(self=%add, other=%x) loc(1)
  return %mul
}
locations {
  scope 0 "" "models.Sum"
  origin 0 scope 0 at "model.py":3
  origin 1 scope 0 at "model.py":4
}
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with ``net.py``, ``net.pt2``, and a saved graph of two relus and a sum."""
    folder = tmp_path_factory.mktemp("passctl")
    (folder / "net.py").write_text(NET)
    scope: dict = {}
    exec(NET, scope)
    module, inputs = scope["with_inputs"]()
    torch.export.save(torch.export.export(module, inputs), folder / "net.pt2")
    save_graph(parse_graph(SUM), folder / "sum.gir")
    return folder


@pytest.fixture(autouse=True)
def workspace(saved, monkeypatch):
    monkeypatch.chdir(saved)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "net", raising=False)


def passctl(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == code, result.output
    return result


def error(*arguments: str) -> str:
    result = passctl(*arguments, code=2)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


# the installed command


def test_the_installed_command_prints_a_graph_that_reads_back(saved):
    done = subprocess.run([PASSCTL, "dump", "sum.gir"], cwd=saved, capture_output=True, text=True, check=True)
    assert [node.op.name for node in parse_graph(done.stdout).nodes] == ["aten.relu"] * 2 + [
        "aten.add.Tensor",
        "aten.mul.Tensor",
    ]
    assert done.stderr == ""


def test_the_installed_command_ends_with_a_message_and_code_2(saved):
    done = subprocess.run([PASSCTL, "dump", "nte.pt2"], cwd=saved, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no file 'nte.pt2'; did you mean 'net.pt2'?\n"


def test_no_command_imports_torch_by_itself():
    code = (
        "import sys\n"
        "import graphpress, graphpress.ir, graphpress.tools.passctl.main as m\n"
        "for name in m.COMMANDS: m.cli.get_command(None, name)\n"
        "assert not {'torch', 'numpy', 'rich.table', 'numba', 'graphpress.pipelines'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name):
    text = passctl(name, "--help").stdout
    assert f"  passctl {name}" in text
    assert "--json" in text
    assert "--traceback" in text


def test_a_misspelled_command_brings_near_ones():
    assert "no command 'dupm'; did you mean 'dump'?" in error("dupm")


# models


@pytest.mark.parametrize(
    "arguments",
    [
        ["net:with_inputs"],
        ["net:net", "--input-shape", "1x3x5x5"],
        ["net:Net", "--input-shape", "1x3x5x5"],
        ["net.pt2"],
    ],
)
def test_every_kind_of_model_becomes_a_graph(arguments):
    graph = parse_graph(passctl("dump", *arguments).stdout)
    assert [node.op.short_name for node in graph.nodes] == ["conv2d", "batch_norm", "relu"]
    assert str(graph.inputs[0].value.type) == "f32[1, 3, 5, 5]"


def test_an_example_model_brings_its_inputs():
    for name in ("conv_bn_relu_chain", "graphpress.tools.models:conv_bn_relu_chain"):
        assert "f32[1, 8, 16, 16]" in passctl("dump", name, "--no-locations").stdout


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
def test_inputs_come_from_files_by_the_names_of_the_parameters(suffix, tmp_path):
    from safetensors.torch import save_file

    arrays = {"scale": torch.ones(4, 1, 1), "image": torch.ones(2, 3, 6, 6)}
    file = tmp_path / f"inputs.{suffix}"
    if suffix == "npz":
        np.savez(file, **{name: array.double().numpy() for name, array in arrays.items()})
    elif suffix == "pt":
        torch.save(arrays, file)
    else:
        save_file(arrays, file)
    graph = parse_graph(passctl("dump", "net:net", "--inputs", str(file)).stdout)
    assert [str(graph_input.value.type) for graph_input in graph.inputs] == ["f32[2, 3, 6, 6]", "f32[4, 1, 1]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smal_resnet"], "'smal_resnet' is not a model; did you mean 'small_resnet'"),
        (["net:nett"], "'net' has no 'nett'; did you mean 'net'"),
        (["nett:net"], "no module 'nett'; did you mean 'net'"),
        (["graphpress.tools.model:x"], "no module 'graphpress.tools.model'; did you mean 'graphpress.tools.models'"),
        (["net:needs_arguments"], "takes arguments (width)"),
        (["net:fails"], "net:fails() failed: ValueError: no weights today"),
        (["net:gives_text"], "returns a str; accepted: a torch.nn.Module"),
        (["net:number"], "net:number is a int"),
        (["net:net"], "has no example inputs"),
        (["net:net", "--input-shape", "1by3"], "'1by3' is not a shape"),
        (["net:net", "--input-shape", "1x3x5x5:flaot32"], "did you mean 'float32'"),
        (["net:net", "--input-shape", "1x4x5x5"], "cannot export Net"),
        (["net:net", "--input-shape", "1", "--inputs", "x.npz"], "exclude each other"),
        (["net:net", "--inputs", "x.npz"], "no file 'x.npz'"),
        (["net:net", "--inputs", "net.py"], "files of tensors end in .npz"),
        (["sun.gir"], "no saved graph at sun.gir"),
    ],
)
def test_what_names_no_model_or_input_is_explained(arguments, message):
    assert message in error("dump", *arguments)


def test_a_pickle_in_a_pt2_file_is_never_run(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    torch.save(Evil(), tmp_path / "evil.pt")
    with zipfile.ZipFile(saved / "net.pt2") as source, zipfile.ZipFile(tmp_path / "net.pt2", "w") as target:
        names = [name for name in source.namelist() if "sample_inputs" in name]
        assert names
        for name in source.namelist():
            target.writestr(name, (tmp_path / "evil.pt").read_bytes() if name in names else source.read(name))
    assert "not a loadable exported program" in error("dump", str(tmp_path / "net.pt2"))
    assert not (tmp_path / "touched").exists()


# dump


def ops(text: str) -> list[str]:
    return [node.op.short_name for node in parse_graph(text).nodes]


def test_a_pipeline_stops_before_or_after_a_step():
    dump = ["dump", "sum.gir", "-p", "cse,dce,cse"]
    assert ops(passctl(*dump, "--before", "cse#1").stdout) == ["relu", "relu", "add", "mul"]
    assert ops(passctl(*dump, "--after", "cse#1").stdout) == ["relu", "add", "mul"]
    assert "no step 'sce#1'" in error(*dump, "--after", "sce#1")
    assert "'cse' is ambiguous" in error(*dump, "--after", "cse")


def test_steps_inside_a_repeat_are_addressed_by_round():
    dump = ["dump", "sum.gir", "-p", "repeat(dce,cse),dce"]
    assert ops(passctl(*dump, "--before", "cse").stdout) == ["relu", "relu", "add", "mul"]
    after = passctl(*dump, "--after", "repeat")
    assert ops(after.stdout) == ["relu", "add", "mul"]
    assert after.stderr.splitlines()[-1] == "4 steps ran, 1 changed something"
    assert passctl(*dump, "--after", "dce#1@2").stderr.splitlines()[-1].startswith("3 steps ran")
    assert "no step 'dce#1@9' ran; executed steps: dce#1@1" in error(*dump, "--after", "dce#1@9")


def test_reports_go_to_stderr():
    result = passctl("dump", "net.pt2", "-p", "canonicalize,fold-batch-norm")
    assert "fold-batch-norm#1: " in result.stderr
    assert "fold-batch-norm" not in result.stdout


def test_the_graph_is_shown_after_every_step_that_changed_it():
    text = passctl("dump", "sum.gir", "-p", "dce,cse,dce", "--changed").stdout
    captured, merged = text.split("// after ")
    assert captured.startswith("// captured\n")
    assert merged.startswith("cse#1; cse#1: 1 removed, 1 changed")
    assert (ops(captured), ops(merged.split("\n", 1)[1])) == (["relu", "relu", "add", "mul"], ["relu", "add", "mul"])


def test_focus_shows_the_surroundings_of_a_node():
    text = passctl("dump", "sum.gir", "--focus", "mul", "--hops", "1").stdout
    assert ops(text) == ["add", "mul"]
    assert "no node 'mull'; did you mean 'mul'" in error("dump", "sum.gir", "--focus", "mull")


def test_locations_can_be_left_out():
    assert "model.py" in passctl("dump", "sum.gir").stdout
    assert "model.py" not in passctl("dump", "sum.gir", "--no-locations").stdout


def test_json_holds_the_graph_and_the_steps():
    data = json.loads(passctl("dump", "sum.gir", "-p", "cse", "--json").stdout)
    (snapshot,) = data["snapshots"]
    add = snapshot["graph"]["nodes"][1]
    assert (add["op"], add["operands"]) == ("aten.add.Tensor", {"self": "%relu", "other": "%relu"})
    assert add["location"][0]["file"] == "model.py"
    assert [(step["step"], step["removed"]) for step in snapshot["steps"]] == [("cse#1", 1)]


def test_output_goes_to_a_file_whole_or_not_at_all(tmp_path):
    assert passctl("dump", "sum.gir", "-o", str(tmp_path / "sum.txt")).stdout == ""
    assert ops((tmp_path / "sum.txt").read_text()) == ["relu", "relu", "add", "mul"]
    assert "no folder" in error("dump", "sum.gir", "-o", str(tmp_path / "missing" / "sum.txt"))
    assert "use `passctl run -o`" in error("dump", "sum.gir", "-o", str(tmp_path / "sum.gir"))


def test_standard_pipelines_go_by_name_and_take_configs(tmp_path):
    config = tmp_path / "weights.yaml"
    config.write_text("quantization_config: {global_config: {op_input_spec: null, op_output_spec: null}}\n")
    result = passctl("dump", "net.pt2", "-p", "prepare", "--config", str(config), "--no-locations")
    assert result.stdout.count("quant.fake_quantize") == 1
    assert "did you mean 'prepare'" in error("dump", "net.pt2", "-p", "prepar")
    assert "--config belongs to the standard pipelines" in error(
        "dump", "net.pt2", "-p", "cse", "--config", str(config)
    )


def test_finalize_starts_from_the_model_as_its_example_calibrates_it():
    result = passctl("dump", "net.pt2", "-p", "finalize", "--no-locations")
    assert result.stdout.count("coreai.quantize") == 2
    assert "fake_quantize" not in result.stdout
    before = passctl("dump", "net.pt2", "-p", "finalize", "--before", "convert-fake-quant", "--no-locations").stdout
    assert before.count("quant.fake_quantize(input=") == 3
    assert "_scale" in before


def test_facts_can_be_assumed():
    assert "needs the fact 'canonical'" in error("dump", "net.pt2", "-p", "fold-batch-norm")
    passctl("dump", "net.pt2", "-p", "fold-batch-norm", "--assume", "canonical")
    assert "did you mean 'canonical'" in error("dump", "net.pt2", "-p", "cse", "--assume", "canonicl")


def test_errors_of_a_pipelines_text_point_at_the_character():
    text = error("dump", "sum.gir", "-p", "cse,repeat(cse,dcee)")
    assert text.splitlines()[-1].index("^") == text.splitlines()[-2].index("dcee")


# list


def test_list_names_passes_and_describes_one():
    assert "cse" in passctl("list").stdout
    text = passctl("list", "cse").stdout
    assert "tie_weights: bool, default false" in text
    assert "Effect: EXACT" in text
    assert "From: graphpress" in text
    assert "did you mean 'cse'" in error("list", "csee")


def test_list_names_the_rules_of_all_passes_with_what_they_do():
    lines = passctl("list", "--rules").stdout.splitlines()
    assert any(
        line.split(None, 1) == ["canonicalize/drop-slice", "Remove a slice of the whole axis."] for line in lines
    )
    assert any(line.startswith("canonicalize/move-dropout-behind-relu ") for line in lines)
    rules = {each["name"]: each for each in json.loads(passctl("list", "--rules", "--json").stdout)}
    assert set(rules) == set(registered_rules())
    assert rules["canonicalize/drop-slice"] == {
        "name": "canonicalize/drop-slice",
        "pass": "canonicalize",
        "summary": "Remove a slice of the whole axis.",
    }
    assert "say either a PASS" in error("list", "canonicalize", "--rules")


def test_list_describes_the_rules_of_a_pass_whatever_its_options():
    text = passctl("list", "canonicalize").stdout
    assert "  drop-dropout: Remove a dropout, which is the identity in evaluation." in text
    assert "  drop-dropout-before-norm: Remove a dropout before a batch norm" in text


def test_list_tells_facts_and_option_types_as_json():
    passes = {each["name"]: each for each in json.loads(passctl("list", "--json").stdout)}
    assert [fact["name"] for fact in passes["fold-batch-norm"]["needs"]] == ["canonical"]
    (option,) = [o for o in passes["assign-quantizers"]["options"] if o["name"] == "config"]
    assert option["type"] == "QuantizerConfig"


# run


def test_run_saves_a_graph_that_loads(tmp_path):
    out = tmp_path / "out.gir"
    result = passctl("run", "sum.gir", "-p", "cse,dce", "-o", str(out), "--timing", "--stats", "--stop-after", "cse")
    assert ops(passctl("dump", str(out)).stdout) == ["relu", "add", "mul"]
    assert "100.0%" in result.stderr
    assert "cse#1: nodes removed 1" in result.stderr
    assert "dce" not in result.stderr
    assert difference(load_graph(out), load_graph("sum.gir")) is not None


def test_run_tells_which_weights_were_skipped_as_records():
    step = PalettizeWeights(KMeansPalettizerConfig.presets.w8())  # tables of 256 entries for 108 elements
    data = json.loads(passctl("run", "net:with_inputs", "-p", str(step), "--json").stdout)
    (report,) = data["steps"][0]["reports"]
    assert report["skipped"]["name"] == "conv.weight"
    assert report["skipped"]["reason"] == "too_small"
    assert report["reason"] == f"skipped conv.weight: {report['skipped']['detail']}"


def test_run_reports_steps_as_json_and_dumps_folders(tmp_path):
    result = passctl("run", "sum.gir", "-p", "repeat(cse,dce)", "--dump", str(tmp_path / "steps"), "--json")
    data = json.loads(result.stdout)
    assert [step["step"] for step in data["steps"]] == ["cse#1@1", "dce#1@1", "cse#1@2", "dce#1@2"]
    assert data["statistics"]["cse#1"]["nodes removed"] == 1
    assert len(list((tmp_path / "steps").iterdir())) == 5


def test_run_finds_an_impossible_output_first(tmp_path):
    accepted = "accepted: *.gir, *.aimodel, *.mlpackage"
    assert accepted in error("run", "no-such-model", "-p", "cse", "-o", str(tmp_path / "out.pt2"))
    assert "no folder" in error("run", "no-such-model", "-p", "cse", "-o", str(tmp_path / "missing" / "out.gir"))


# verify


def test_verify_accepts_what_is_right():
    assert passctl("verify", "sum.gir").stdout == "ok\n"
    result = passctl("verify", "net:with_inputs", "-p", "canonicalize,fold-batch-norm", "--numerics", "--json")
    checks = json.loads(result.stdout)["checks"]
    assert [check["step"] for check in checks] == ["captured", "canonicalize#1", "fold-batch-norm#1"]
    assert all(check["ok"] and check["drift"][0]["held"] for check in checks)
    assert 0 < checks[2]["drift"][0]["error"] < checks[2]["drift"][0]["allowed"]


@pytest.fixture
def wrong_passes():
    @register_pass
    @frozen
    class NegateSums(Pass):
        """Says that nothing changes, and turns sums into differences."""

        effect = EXACT

        def run(self, graph, rewriter, context):
            for node in graph.nodes:
                if node.op.name == "aten.add.Tensor":
                    rewriter.set_attribute(node, "alpha", -1)

    @register_pass
    @frozen
    class BreakTypes(Pass):
        """Leaves a result of another type than its op gives."""

        def run(self, graph, rewriter, context):
            node = next(iter(graph.nodes))
            new = rewriter.insert_before(node, "aten.sum", {"self": node.operands["self"]}, types=[node.result.type])
            rewriter.replace(node, new.result)

    yield
    unregister_pass(NegateSums)
    unregister_pass(BreakTypes)


@pytest.mark.usefixtures("wrong_passes")
def test_verify_finds_the_step_that_moved_the_numbers_and_goes_on():
    result = passctl("verify", "sum.gir", "-p", "cse,negate-sums,dce", "--numerics", code=1)
    assert "step 'negate-sums#1' is EXACT, but moved output 0 by" in result.stderr
    assert "dce#1" in result.stderr
    assert result.stdout == "1 problem\n"
    passctl("verify", "sum.gir", "-p", "cse,negate-sums,dce")  # without --numerics nobody looks


@pytest.mark.usefixtures("wrong_passes")
def test_verify_finds_the_step_that_broke_the_graph():
    result = passctl("verify", "sum.gir", "-p", "break-types,dce", "--json", code=1)
    checks = json.loads(result.stdout)["checks"]
    assert [(check["step"], check["ok"]) for check in checks] == [("captured", True), ("break-types#1", False)]


# diff


def test_diff_tells_same_from_different_by_its_code(tmp_path):
    same = passctl("diff", "sum.gir", "sum.gir")
    assert same.stdout == ""
    out = tmp_path / "out.gir"
    passctl("run", "sum.gir", "-p", "cse", "-o", str(out))
    result = passctl("diff", "sum.gir", str(out), code=1)
    assert "- %relu_1: f32[2, 4] = aten.relu(self=%x)" in result.stdout
    assert "~ %add = aten.add.Tensor\n    other: %relu_1 -> %relu" in result.stdout
    assert "1 nodes removed, 0 added, 1 changed, 2 the same" in result.stderr
    error("diff", "sum.gir", "missing.gir")


def test_diff_compares_before_and_after_a_step():
    arguments = ["diff", "sum.gir", "-p", "dce,cse,dce", "--json", "--step"]
    for step in ("cse", "2", "cse#1"):
        data = json.loads(passctl(*arguments, step, code=1).stdout)
        assert [node["name"] for node in data["removed"]] == ["relu_1"]
    assert json.loads(passctl(*arguments, "dce#2").stdout)["same"]
    assert "no step number 4; the pipeline has 3" in error(*arguments, "4")
    passctl("diff", "sum.gir", "-p", "dce,cse", code=1)


def test_diff_needs_two_things_to_compare():
    assert "two models, or one model and a --pipeline" in error("diff", "sum.gir")


# bench


def test_bench_times_every_step_at_several_sizes():
    arguments = ["bench", "sum.gir", "-p", "repeat(cse,dce)", "--copies", "3", "--copies", "1", "--repeats", "1"]
    small, large = json.loads(passctl(*arguments, "--json").stdout)
    assert (small["nodes"], large["nodes"]) == (4, 12)
    assert list(large["seconds"]) == ["cse#1", "dce#1"]
    table = passctl(*arguments).stdout
    assert "12 nodes" in table
    assert "grows" in table


# errors


def test_a_defect_shows_its_traceback_and_an_error_only_when_asked(monkeypatch):
    assert "Traceback" in passctl("dump", "smal_resnet", "--traceback", code=2).stderr

    def broken(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr("graphpress.tools.passctl.models.resolve", broken)
    result = passctl("dump", "sum.gir", code=2)
    assert "Traceback" in result.stderr
    assert "RuntimeError: a defect" in result.stderr

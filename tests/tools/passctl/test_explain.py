"""passctl explain: why a rule did not match, and why a value is quantized or not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from graphpress.ir import save_graph
from graphpress.passes.framework.testing import GraphBuilder, f32, i64
from graphpress.tools.passctl.main import cli
from tests.passes.framework import failing_passes  # registers passes

torch.set_num_threads(1)
PASSCTL = Path(sys.executable).with_name("passctl")

CONFIG = """
quantization_config:
  global_config:
    op_type_config:
      conv2d: {op_output_spec: null}
  module_name_configs:
    block.plain: null
    block.linear: {op_input_spec: {0: {dtype: uint8, qscheme: asymmetric}}}
"""
PLAIN = "module_name_configs['block.plain'] of the config is None"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with graphs and a config."""
    folder = tmp_path_factory.mktemp("explain")
    save_graph(signs(), folder / "signs.gir")
    save_graph(network(), folder / "net.gir")
    save_graph(failing_passes.conv_blocks(4, strided=(1,), channels=4, size=8), folder / "blocks.gir")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def signs():
    b = GraphBuilder()
    x = b.input()
    near = b.aten.mul.Tensor(b.aten.neg(x), b.aten.relu(x), name="near")
    far = b.aten.mul.Tensor(b.aten.relu(x), b.aten.relu(x), name="far")
    hit = b.aten.add.Tensor(near, b.aten.neg(far), name="hit")
    return b.outputs(hit, b.aten.sin(far, name="sine"))


def network():
    """A convolution with relu, pooled; a sigmoid beside a convolution, concatenated; a gathering of integers."""
    b = GraphBuilder()
    x, index = b.input("x", f32[1, 4, 8, 8]), b.input("index", i64[1, 16])
    sizes = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    conv = b.aten.conv2d(x, b.constant("w", torch.randn(4, 4, 3, 3)), name="conv", **sizes)
    relu = b.aten.relu(conv, name="relu")
    pool = b.aten.max_pool2d(relu, (2, 2), (2, 2), name="pool")
    plain = b.aten.conv2d(pool, b.constant("v", torch.randn(4, 4, 3, 3)), name="plain", **sizes)
    gate = b.aten.sigmoid(pool, name="gate")
    other = b.aten.conv2d(pool, b.constant("u", torch.randn(4, 4, 3, 3)), name="other", **sizes)
    joined = b.aten.cat([gate, other], 1, name="joined")
    flat = b.aten.flatten.using_ints(joined, 1, name="flat")
    linear = b.aten.linear(flat, b.constant("fc.weight", torch.randn(16, 128)), name="linear")
    picked = b.aten.gather(linear, 1, index, name="picked")
    return b.outputs(picked, b.aten.sin(plain, name="sine"))


@pytest.fixture(autouse=True)
def workspace(saved, monkeypatch):
    monkeypatch.chdir(saved)


def passctl(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["explain", *arguments])
    assert result.exit_code == code, result.output
    return result


def value(name: str, *arguments: str) -> dict:
    (story,) = json.loads(passctl("net.gir", "--value", name, "--json", *arguments).stdout)
    return story


def reasons(name: str, *arguments: str) -> dict[str, str]:
    return {use["place"]: use["reason"] for use in value(name, *arguments)["uses"]}


# rules


def test_near_misses_are_told_nearest_first_with_node_module_and_source_line():
    text = passctl("signs.gir", "two-signs").stdout
    assert text.splitlines()[0] == "two-signs: 0 matches, 2 near misses"
    assert text.index("mul.self: expected aten.neg, found aten.relu\n  at relu_1") > text.index("mul.other")
    assert (
        "mul.other: expected aten.neg, found aten.relu\n  at relu (aten.relu), block.relu (Relu) at model.py:" in text
    )
    assert len(passctl("signs.gir", "two-signs", "--most", "1").stdout.splitlines()) == 3


def test_a_node_narrows_it_down():
    text = passctl("signs.gir", "sample-wrong-rule/two-signs", "--node", "far").stdout
    assert "1 near misses" in text
    assert "relu_1" in text
    text = passctl("signs.gir", "two-signs", "--node", "%sine").stdout
    assert text == "two-signs: sine (aten.sin) cannot take part in a match; the pattern has aten.mul.Tensor, aten.neg\n"


def test_all_rules_of_a_pass_those_that_match_first():
    stories = json.loads(passctl("signs.gir", "sample-wrong-rule", "--json").stdout)
    assert [story["rule"] for story in stories] == ["one-sign", "two-signs"]
    assert [match["node"] for match in stories[0]["matches"]] == ["hit"]
    assert stories[0]["matches"][0]["location"][0]["module"] == "block.hit"
    miss = stories[1]["misses"][0]
    assert (miss["path"], miss["expected"], miss["found"]) == (["mul", "other"], "aten.neg", "aten.relu")


def test_with_a_pipeline_the_graph_is_the_one_the_rule_meets_there():
    pipeline = ["-p", "cse,sample-wrong-rule,dce"]
    assert "1 matches" in passctl("signs.gir", "one-sign", *pipeline).stdout
    assert "0 matches" in passctl("signs.gir", "one-sign", *pipeline, "--after", "sample-wrong-rule").stdout
    assert "1 matches" in passctl("signs.gir", "one-sign", *pipeline, "--before", "cse").stdout


def test_the_rules_of_canonicalize_are_explained_those_of_other_options_too():
    text = passctl("net.gir", "canonicalize/drop-reshape").stdout
    assert "drop-reshape: 0 matches, 1 near misses\nflatten: expected one result of the type of `self`, found " in text
    text = passctl("net.gir", "canonicalize/move-dropout-behind-relu", "-p", "canonicalize").stdout
    assert "relu.self: expected aten.dropout or aten.feature_dropout, found aten.conv2d\n  at conv" in text
    stories = json.loads(passctl("net.gir", "canonicalize", "--json").stdout)
    assert "drop-dropout" in {story["rule"] for story in stories}
    assert "move-dropout-behind-relu" not in {story["rule"] for story in stories}


def test_of_a_pass_without_rules_it_is_told_what_it_did_and_remarked():
    arguments = ["blocks.gir", "fold-batch-norm", "-p", "prepare"]
    assert passctl(*arguments).stdout.startswith("fold-batch-norm: 4 rewrites, 0 remarks\nrewrite 1: insert fold.")
    text = passctl(*arguments, "--node", "norm2").stdout
    assert text.splitlines()[1].startswith("rewrite 3: insert fold.batch_norm_factor at norm2 (aten.batch_norm), block")
    assert "no rewrite starts there" in passctl(*arguments, "--node", "relu2").stdout


def test_why_a_batch_norm_is_left_is_told(saved):
    b = GraphBuilder()
    x = b.input("x", f32[1, 4, 8, 8])
    parts = [b.constant(name, torch.rand(4) + 0.5) for name in "gbmv"]
    norm = b.aten.batch_norm(b.aten.relu(x), *parts, False, 0.1, 1e-5, False, name="norm")
    save_graph(b.outputs(norm), saved / "norm.gir")
    text = passctl("norm.gir", "fold-batch-norm", "--node", "norm").stdout
    assert "no convolution or linear layer before it; its output is not read by one layer alone" in text


def test_the_installed_command_explains(saved):
    command = [PASSCTL, "explain", "net.gir", "--value", "relu"]
    done = subprocess.run(command, cwd=saved, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("%relu: f32[1, 4, 8, 8] is quantized\n")
    assert done.stderr == ""


# values


def test_a_quantizer_is_told_with_its_config_entry_group_and_sharing_chain():
    story = value("flat")
    (quantizer,) = story["quantizers"]
    assert quantizer["source"] == "global_config.op_output_spec['*']"
    assert quantizer["decider"] == "gate result"
    assert quantizer["chain"] == ["flat result", "flat self", "joined result", "joined tensors[0]", "gate result"]
    assert "linear input, requested by global_config.op_input_spec['*']" in quantizer["members"]
    assert "joined tensors[1]" in quantizer["members"]
    assert quantizer["remark"] == "the known range of the result of gate is not used: other values share this quantizer"
    text = passctl("net.gir", "--value", "relu").stdout
    assert "made in the fusion group 'layer-activation' of conv, relu" in text
    assert "relu result: quantized by 'relu_output', requested by global_config.op_output_spec['*']" in text
    assert "scheme and range are the known ones of the result of relu" in text
    assert "block.relu (Relu) at model.py:" in text


def test_the_most_specific_entry_of_the_config_decides_for_all_that_share():
    (quantizer,) = value("flat", "-p", "prepare", "--config", "config.yaml")["quantizers"]
    assert quantizer["source"] == "module_name_configs['block.linear'].op_input_spec[0]"
    assert quantizer["decider"] == "linear input"
    assert quantizer["spec"].startswith("uint8, asymmetric, per tensor")
    assert quantizer["chain"] == ["flat result", "linear input"]


def test_why_values_are_left_whole_is_told():
    inside = "it lies inside the fusion group 'layer-activation' of conv, relu; only"
    assert reasons("conv") == {
        "conv result": f"not quantized: {inside} the result of relu is",
        "relu self": f"not quantized: {inside} what conv reads is",
    }
    assert reasons("index")["picked index"] == "not quantized: i64[1, 16] is not floating point"
    assert reasons("sine")["sine result"] == (
        "not quantized: aten.sin is in no fusion group, so it computes in floating point"
    )
    config = ("-p", "prepare", "--config", "config.yaml")
    assert reasons("plain", *config)["plain result"] == f"not quantized: {PLAIN}"
    assert reasons("other", *config)["other result"] == (
        "not quantized: global_config.op_type_config['conv2d'].op_output_spec of the config is None"
    )
    assert not value("plain", *config)["is_quantized"]


def test_weights_are_found_by_their_qualified_names():
    story = value("fc.weight")
    assert (story["name"], story["uses"][0]["place"]) == ("@fc.weight", "linear weight")
    assert story["quantizers"][0]["spec"].startswith("int8, symmetric, per channel")
    assert value("@fc.weight") == story
    config = ("-p", "prepare", "--config", "config.yaml")
    assert reasons("v", *config)["plain weight"] == f"not quantized: {PLAIN}"
    text = passctl("blocks.gir", "--value", "conv0.weight").stdout
    assert text.startswith("%conv0_weight: f32[4, 4, 3, 3] is quantized\nconv0 weight: quantized by 'conv0_weight'")
    assert "a constant of fewer than two axes is not a weight" in passctl("blocks.gir", "--value", "bn0.bias").stdout


def test_an_input_and_an_output_are_told_where_they_are_quantized():
    assert reasons("x")["x"] == "an input is quantized where an op reads it"
    assert reasons("picked")["output"] == "an output is quantized where it is made"
    assert value("x")["quantizers"][0]["name"] == "conv_input"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.gir"], "pass either a RULE or a --value"),
        (["net.gir", "two-signs", "--value", "x"], "pass either a RULE or a --value"),
        (["net.gir", "--value", "x", "--node", "y"], "need a RULE"),
        (["net.gir", "two-signs", "--after", "cse"], "need a --pipeline"),
        (["net.gir", "two-sings"], "no rule or pass 'two-sings'; did you mean 'two-signs'"),
        (["net.gir", "two-signs", "--node", "reul"], "there is no node 'reul'; did you mean 'relu'"),
        (["net.gir", "--value", "reul"], "no value 'reul'; did you mean 'relu'"),
        (["net.gir", "--value", "fc.wieght"], "did you mean 'fc.weight'"),
        (["net.gir", "--value", "x", "-p", "cse"], "the pipeline assigns no quantizers"),
        (["blocks.gir", "--value", "norm1"], "an earlier step rewrote it; 'conv1' replaces it"),
    ],
)
def test_what_cannot_be_explained_is_told(arguments, message):
    result = passctl(*arguments, code=2)
    assert message in result.stderr
    assert result.stdout == ""


# accuracy


def test_the_cost_of_each_quantizer_is_listed_with_the_worst_first(tmp_path):
    (tmp_path / "config.yaml").write_text("quantization_config: {placement: matmul-inputs}")
    data = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save({"x": data}, tmp_path / "data.pt")
    arguments = ["explain", "small_resnet", "--accuracy", "--config", f"{tmp_path / 'config.yaml'}"]
    arguments += ["--data", f"{tmp_path / 'data.pt'}", "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    costs = json.loads(result.stdout)
    assert [cost["decibels"] for cost in costs] == sorted(cost["decibels"] for cost in costs)
    assert all(cost["name"].endswith("input") and cost["low"] < cost["high"] for cost in costs)
    assert all(90 < cost["percentile"] <= 100 for cost in costs)
    text = CliRunner().invoke(cli, arguments[:3]).stdout
    assert "dB alone" in text
    assert "relu_output" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small_resnet"], "a RULE or a --value, or --accuracy"),
        (["small_resnet", "--accuracy", "--value", "relu"], "a RULE or a --value, or --accuracy"),
        (["small_resnet", "--value", "relu", "--data", "x.npz"], "--data needs --accuracy"),
        (["small_resnet", "--accuracy", "--pipeline", "prepare"], "no pipeline"),
    ],
)
def test_options_of_the_accuracy_that_exclude_each_other_are_refused(arguments, message):
    result = CliRunner().invoke(cli, ["explain", *arguments])
    assert result.exit_code == 2
    assert message in result.output

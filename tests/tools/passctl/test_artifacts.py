"""Saved models in passctl, as installed: compared with the model they were made from, printed, and compared with each
other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from graphpress import ExportBackend
from graphpress.backends import coreai
from graphpress.ir import from_module, parse_graph
from graphpress.tools.passctl.main import cli
from tests.backends.features import IMAGE, compressed, network, save_everywhere
from tests.backends.test_every_feature import weights_of

pytest.importorskip("coreai_torch")
pytest.importorskip("coremltools")

PASSCTL = Path(sys.executable).with_name("passctl")
KINDS = ("aimodel", "mlpackage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model in a `.pt2`, what it was saved as for both runtimes, inputs, and a model of the same layers."""
    made = tmp_path_factory.mktemp("artifacts")
    model = compressed("int8 tables with a scale per channel", "int8", ExportBackend.CoreAI)
    save_everywhere(model, made)
    np.savez(made / "x.npz", input=IMAGE.flip(0).numpy())
    with torch.no_grad():
        next(buffer for name, buffer in model.named_buffers() if "scale" in name and buffer.numel() == 16).mul_(1.01)
    torch.export.save(torch.export.export(model, (IMAGE,)), made / "other.pt2")
    return made


@pytest.fixture
def installed(folder):
    """Runs the console script."""

    def run(*arguments: str, code: int = 0) -> str:
        plain = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [PASSCTL, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=plain)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if code == 2 else done.stdout

    return run


@pytest.fixture
def passctl(folder, monkeypatch):
    """Runs the same in this process, which spares the imports."""
    monkeypatch.chdir(folder)

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, list(arguments))
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_holds_what_its_model_does(installed, kind):
    done = installed("verify-artifact", f"m.{kind}", "--against", "m.pt2", "--inputs", "x.npz", "--json")
    found = json.loads(done)
    assert found["ok"]
    assert found["problems"] == []
    assert [each["same"] for each in found["weights"]] == [True] * 5
    assert found["outputs"][0]["max_error"] <= 1e-5 or found["outputs"][0]["max_error_in_runtime_arithmetic"] <= 1e-5
    counts = found["compressing"]
    assert counts["artifact"] == counts["model"]
    assert counts["model"] == {"blockwise_shift_scale": 5, "lut_to_dense": 5, "quantize": 6, "dequantize": 6}
    assert found["operations"]["quantize"] == 6
    sizes = found["weight_bytes"]
    assert abs(sizes["artifact"] - sizes["model"]) < 1024
    assert found["file_bytes"]["artifact"] <= found["file_bytes"]["accounted_for"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_that_differs_by_a_hundredth_is_found(passctl, kind):
    done = passctl("verify-artifact", f"m.{kind}", "--against", "other.pt2", "--inputs", "x.npz", code=1)
    assert done.stdout.endswith("problems\n") or done.stdout == "1 problem\n"
    assert "is not in the artifact, bit for bit" in done.stderr
    assert "MISMATCH" in done.stderr


def test_an_artifact_that_lost_its_compression_is_found(passctl, folder):
    tables = compressed("int8 tables", None, ExportBackend.CoreAI, norm=False)
    torch.export.save(torch.export.export(tables, (IMAGE,)), folder / "tables.pt2")
    floats = network(norm=False)  # the very floats that the tables stand for
    layers = [layer for layer in floats if hasattr(layer, "weight")]
    with torch.no_grad():
        for layer, weight in zip(layers, weights_of(from_module(tables, (IMAGE,))), strict=True):
            layer.weight.copy_(weight)
    coreai.convert(floats, folder / "floats.aimodel", (IMAGE,))
    done = passctl("verify-artifact", "floats.aimodel", "--against", "tables.pt2", "--json", code=1)
    found = json.loads(done.stdout)
    assert all(each["same"] for each in found["weights"])
    assert found["outputs"][0]["ok"]
    assert len(found["problems"]) == 3
    assert "0 ops lut_to_dense, but the model has 5" in found["problems"]
    assert "bytes, but the model's take" in found["problems"][-1]


@pytest.mark.parametrize("kind", KINDS)
def test_artifacts_are_printed_and_compared_like_any_model(passctl, kind):
    graph = parse_graph(passctl("dump", f"m.{kind}").stdout)
    assert sum(node.op.name == "quant.blockwise_shift_scale" for node in graph.nodes) == 5
    passctl("diff", f"m.{kind}", f"m.{kind}")
    assert passctl("diff", f"m.{kind}", "m.pt2", code=1).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_dump_as_installed_gives_the_graph_as_data(installed, kind):
    (snapshot,) = json.loads(installed("dump", f"m.{kind}", "--json"))["snapshots"]
    graph = snapshot["graph"]
    assert [each["name"] for each in graph["inputs"]] == ["input"]
    ops = [node["op"] for node in graph["nodes"]]
    assert ops.count("quant.lut_to_dense") == ops.count("quant.blockwise_shift_scale") == 5
    assert sum(each["type"].startswith("u3[") for each in graph["constants"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_diff_as_installed_ends_with_0_for_what_is_the_same(installed, kind):
    found = json.loads(installed("diff", f"m.{kind}", f"m.{kind}", "--json"))
    assert found["same"]


def test_diff_as_installed_compares_one_model_in_both_formats(installed):
    found = json.loads(installed("diff", "m.aimodel", "m.mlpackage", "--json", code=1))
    assert not found["same"]
    # What is stored compressed is the same in both; they differ in how layers are spelled around it.
    assert not any("quant." in node["op"] for which in ("removed", "added") for node in found[which])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_diff_as_installed_compares_an_artifact_with_its_model(installed, kind):
    found = json.loads(installed("diff", f"m.{kind}", "m.pt2", "--json", code=1))
    assert {node["op"] for node in found["added"]} >= {"coreai.quantize", "coreai.lut_to_dense"}
    assert "coreai.lut_to_dense" in installed("diff", f"m.{kind}", "m.pt2", code=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_commands_as_installed_end_with_2_for_a_damaged_artifact(installed, folder, kind):
    path = folder / f"damaged.{kind}"
    shutil.copytree(folder / f"m.{kind}", path)
    file = path / ("main.mlirb" if kind == "aimodel" else "Data/com.apple.CoreML/model.mlmodel")
    file.write_bytes(file.read_bytes()[:-100])
    for command in (
        ["dump", path.name],
        ["dump", path.name, "--json"],
        ["diff", path.name, f"m.{kind}"],
        ["diff", "m.pt2", path.name, "--json"],
        ["verify-artifact", path.name, "--against", "m.pt2"],
    ):
        assert path.name in installed(*command, code=2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_or_damaged_artifact_is_an_error_of_ours(passctl, folder, kind, tmp_path):
    path = tmp_path / f"m.{kind}"
    files = ["main.mlirb"] if kind == "aimodel" else ["Data/com.apple.CoreML/weights/weight.bin"]
    for name in files:
        for spoil in (lambda data: data[: len(data) // 2], lambda data: data[:40] + b"\xff" * 40 + data[80:]):
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(folder / f"m.{kind}", path)
            (path / name).write_bytes(spoil((path / name).read_bytes()))
            done = passctl("verify-artifact", str(path), "--against", "m.pt2", code=2)
            assert done.stdout == ""
            assert "Traceback" not in done.stderr
            assert path.name in done.stderr


def test_what_is_no_artifact_is_told(passctl):
    done = passctl("verify-artifact", "m.pt2", "--against", "m.pt2", code=2)
    assert "'m.pt2' is not an artifact; accepted: an .aimodel or an .mlpackage" in done.stderr
    assert passctl("verify-artifact", "missing.aimodel", "--against", "m.pt2", code=2).stdout == ""


@pytest.mark.parametrize("kind", KINDS)
def test_blame_names_the_operator_of_another_model(passctl, folder, kind):
    found = json.loads(passctl("verify-artifact", f"m.{kind}", "--against", "m.pt2", "--blame", "--json").stdout)
    assert found["blame"]["first"] is None
    assert found["blame"]["compared"] > 0

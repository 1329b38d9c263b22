"""`passctl run` from a saved model to a saved model, as installed and in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from graphpress import coreai_utils, coreml_utils
from graphpress.backends import coreai, coreml
from graphpress.backends.coreai.asset import open_asset
from graphpress.tools.passctl.main import cli
from tests.graphpress.test_coreai_utils import stored

PASSCTL = Path(sys.executable).with_name("passctl")
IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 8), nn.Softmax(-1)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model saved for both runtimes, and one whose height is free."""
    made = tmp_path_factory.mktemp("saved")
    coreai.convert(network(), made / "float.aimodel", IMAGE)
    coreml.convert(network(), made / "float.mlpackage", IMAGE, target="iOS18")
    free = {2: torch.export.Dim("height", min=4, max=64)}
    exported = torch.export.export(nn.Conv2d(3, 16, 3).eval(), (IMAGE,), dynamic_shapes=(free,))
    coreai.convert(exported, made / "free.aimodel")
    coreml.convert(exported, made / "free.mlpackage")
    return made


def installed(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    plain = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([PASSCTL, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=plain)


def passctl(folder, monkeypatch, *arguments: str):
    monkeypatch.chdir(folder)
    return CliRunner().invoke(cli, list(arguments))


def test_an_asset_goes_in_and_one_with_codes_comes_out(folder):
    done = installed(folder, "run", "float.aimodel", "-p", "quantize-weights", "-o", "int8.aimodel", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "int8.aimodel"
    program = coreai_utils.quantize_weights(open_asset(folder / "float.aimodel").program, weight_num_threshold=0)
    assert stored(coreai.from_asset(folder / "int8.aimodel")) == stored(coreai.from_program(program))
    assert (coreai.load(folder / "int8.aimodel")(IMAGE) - network()(IMAGE)).abs().max() < 0.01


def test_a_package_goes_in_and_one_with_tables_comes_out(folder):
    arguments = "run", "float.mlpackage", "-p", "palettize-weights", "-o", "tables.mlpackage", "--target", "iOS16"
    done = installed(folder, *arguments)
    assert done.returncode == 0, done.stderr
    coreml_utils.palettize_weights(folder / "float.mlpackage", weight_num_threshold=0).save(str(folder / "u.mlpackage"))
    assert stored(coreml.from_package(folder / "tables.mlpackage")) == stored(
        coreml.from_package(folder / "u.mlpackage")
    )
    _, (found,) = coreml.evaluate(folder / "tables.mlpackage", [IMAGE])
    assert (found - network()(IMAGE)).abs().max() < 0.1


def test_an_asset_becomes_a_package(folder, monkeypatch):
    done = passctl(folder, monkeypatch, "run", "float.aimodel", "-p", "prune-weights,dce", "-o", "sparse.mlpackage")
    assert done.exit_code == 0, done.output
    assert coreml.read(folder / "sparse.mlpackage").operations["constexpr_sparse_to_dense"] == 2


@pytest.mark.parametrize("name", ["free.aimodel", "free.mlpackage"])
def test_what_a_graph_does_not_hold_is_refused(folder, monkeypatch, name):
    done = passctl(folder, monkeypatch, "run", name, "-p", "quantize-weights", "-o", f"out{Path(name).suffix}")
    assert done.exit_code != 0
    assert "the dynamic dims of" in done.output
    assert "graphpress.coreai_utils" in done.output.replace("\n", " ")
    assert not list(folder.glob("out*"))


def test_a_failure_leaves_what_was_there(folder, monkeypatch):
    coreai.convert(network(), folder / "old.aimodel", IMAGE)
    before = coreai.read(folder / "old.aimodel")
    done = passctl(folder, monkeypatch, "run", "float.aimodel", "-p", "prepare", "-o", "old.aimodel")
    assert done.exit_code != 0
    assert "a fake-quantizer is left" in done.output
    assert coreai.read(folder / "old.aimodel") == before
    assert not list(folder.glob(".old*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "out.onnx"), "*.gir, *.aimodel, *.mlpackage"),
        (("-o", "out.gir", "--target", "iOS18"), "--target is for"),
        (("-o", "out.aimodel", "--target", "iOS18"), "--target is for"),
        (("-o", "out.mlpackage", "--target", "iOS99"), "iOS99"),
        (
            (
                "-o",
                "tests/file.txt/out.aimodel",
            ),
            "cannot write",
        ),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(folder, monkeypatch, arguments, message):
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests" / "file.txt").write_text("")
    done = passctl(folder, monkeypatch, "run", "float.aimodel", "-p", "dce", *arguments)
    assert done.exit_code != 0
    assert message in done.output

"""A package outside graphpress, installed into a folder of its own, is found by its entry points."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

SCRIPT = """
import sys
import torch
from pathlib import Path
from graphpress import pipelines
from graphpress.backends import lookup_backend
from graphpress.passes.framework import Pipeline, lookup_rule
from graphpress.passes.framework.registry import provider
from graphpress.quantization import Quantizer

class Model(torch.nn.Module):
    def forward(self, x, y):
        return (x + y).abs().abs()

example = (torch.randn(1, 4), torch.randn(1, 4))

# Rule and fusion pattern, before anything was looked up by name: both abs become one, in one block with the sum.
assert "graphpress_sample" not in sys.modules
prepared = Quantizer(Model()).prepare(example)
assert "graphpress_sample.passes" in sys.modules
calls = [str(node.target) for node in prepared.graph.nodes]
assert calls.count("aten.abs.default") == 1, calls
assert sum(call.startswith("quantizers.") for call in calls) == 3, calls

# Pass.
step = Pipeline.parse("drop-negations")["drop-negations"]
assert provider(type(step)) in ("graphpress-sample", "graphpress_sample")
assert lookup_rule("drop-double-negation") is lookup_rule("drop-negations/drop-double-negation")

# Backend.
backend = lookup_backend("text")
assert str(pipelines.finalize("text")).endswith("dce")
written = backend.convert(Model(), Path(sys.argv[1]) / "model.txt", example)
assert written.read_text().split() == ["aten.add.Tensor", "aten.abs", "aten.abs"]
print("done")
"""

CLASHES = """
from graphpress.backends import BackendRegistrationError, lookup_backend
from graphpress.passes.framework import PassRegistrationError, lookup_pass
for look, name, error in [
    (lookup_pass, "no-such-pass", PassRegistrationError),
    (lookup_backend, "coreai", BackendRegistrationError),
]:
    try:
        look(name)
    except error as raised:
        print(raised)
    else:
        raise AssertionError(look)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, installed by pip from a copy of its sources."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(HERE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run(site: Path, script: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_package_adds_a_pass_a_rule_a_fusion_pattern_and_a_backend(installed: Path, tmp_path: Path):
    assert "done" in run(installed, SCRIPT, str(tmp_path))


def test_names_that_clash_with_those_of_graphpress_are_refused(installed: Path, tmp_path: Path):
    site = tmp_path / "site"
    shutil.copytree(installed, site)
    package = site / "graphpress_sample"
    for file, old, new in [
        ("passes.py", "class DropNegations", "class Dce"),
        ("backend.py", 'name = "text"', 'name = "coreai"'),
    ]:
        text = (package / file).read_text(encoding="utf-8")
        assert old in text
        (package / file).write_text(text.replace(old, new), encoding="utf-8")
    passes, backends = run(site, CLASHES).splitlines()
    assert "pass name 'dce' is taken twice" in passes
    assert "graphpress_sample.passes.Dce" in passes
    assert "backend name 'coreai' is taken twice" in backends
    assert "graphpress_sample.backend.TextBackend" in backends

"""What tools see of the code, in the checkout and in an installed wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import jedi
import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """\
from graphpress.ir import from_module
from graphpress.passes.framework import Runner
from graphpress.quantization import Quantizer

reveal_type(Quantizer.prepare)
reveal_type(Runner.run)
reveal_type(from_module)
"""
# The file, below the package, that each name of the script is defined in.
HOMES = {
    "from_module": "ir/torch/capture.py",
    "Runner": "passes/framework/runner.py",
    "Quantizer": "quantization/quantizer.py",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the checkout, built without network."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools leaves `build/` and an egg-info where it builds.
    copy = folder / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(copy)], check=True)
    subprocess.run(["git", f"--git-dir={copy}/.git", f"--work-tree={ROOT}", "add", "--all"], check=True)
    subprocess.run(["git", "checkout-index", "--all", "--force"], cwd=copy, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(copy)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The Python of an environment that has the wheel, and the packages of this environment but not its graphpress."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (ours,) = {Path(entry) for entry in sys.path if entry.endswith("site-packages")}
    (site / "ours.pth").write_text(f"{ours}\n", encoding="utf-8")
    return folder / "bin" / "python"


@pytest.fixture(params=["checkout", "wheel"])
def python(request) -> Path:
    return Path(sys.executable) if request.param == "checkout" else request.getfixturevalue("installed")


def test_pyright_resolves_the_types_of_what_users_import(python, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--pythonpath", str(python), "--outputjson", "script.py"]
    report = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout)
    messages = [diagnostic["message"] for diagnostic in report["generalDiagnostics"]]
    assert [each["severity"] for each in report["generalDiagnostics"]] == ["information"] * 3, messages
    quantizer, runner, from_module = messages
    assert "example_inputs: " in quantizer
    assert quantizer.endswith('-> Module"')
    assert "graph: Graph, pipeline: Pipeline" in runner
    assert runner.endswith('-> RunResult"')
    assert "module: Module" in from_module
    assert from_module.endswith('-> Graph"')


def test_jedi_goes_to_the_file_that_defines_a_name(python, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it would come before what is installed
    folder = "src/graphpress" if python == Path(sys.executable) else "site-packages/graphpress"
    script = jedi.Script(SCRIPT, environment=jedi.create_environment(str(python), safe=False))
    for line, (name, home) in enumerate(HOMES.items(), 1):
        (definition,) = script.goto(line, SCRIPT.splitlines()[line - 1].index(name), follow_imports=True)
        assert str(definition.module_path).endswith(f"{folder}/{home}"), name


@pytest.mark.slow
def test_every_import_of_ours_resolves_in_the_checkout():
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(ROOT)]
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    assert report["summary"]["filesAnalyzed"] > 100
    assert [each for each in report["generalDiagnostics"] if '"graphpress' in each["message"]] == []


def test_the_wheel_contains_the_product_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    packaged = {name for name in names if not name.startswith("graphpress-")}
    assert all(name.startswith("graphpress/") for name in packaged)
    excluded = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    left_out = tuple(pattern.removesuffix("*").replace(".", "/") for pattern in excluded["find"]["exclude"])
    source = ROOT / "src"
    suffixes = (".py", ".typed", ".safetensors", ".css", ".js", ".html")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    links = {link.name for link in (source / "graphpress").iterdir() if link.is_symlink()}
    expected = {
        path.removeprefix("src/") if path.startswith("src/") else f"graphpress/{path}"
        for path in listed
        if path.endswith(suffixes)
        and (path.startswith("src/") or path.split("/")[0] in links)
        and (ROOT / path).exists()
    }
    assert packaged == {path for path in expected if not path.startswith(left_out)}
    assert "graphpress/py.typed" in packaged


def test_every_folder_with_modules_is_a_package():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {(ROOT / name).parent for name in listed.split() if name.split("/")[0] not in ("tests", "docs")}
    assert {str(folder) for folder in folders if folder.exists() and not (folder / "__init__.py").exists()} == set()

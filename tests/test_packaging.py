"""What tools see of the code, in the checkout and in an installed wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import jedi
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.imports import Import, imports_of

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


REPOSITORY = ("dev", "mutation")
"""Extras for work on the repository: the product imports nothing of them."""


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
def python(request, monkeypatch) -> Path:
    if request.param == "checkout":
        return Path(sys.executable)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it would put a checkout before the wheel
    return request.getfixturevalue("installed")


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
    excluded = tuple(package.replace(".", "/") for package in left_out())
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
    assert packaged == {path for path in expected if not path.startswith(excluded)}
    assert "graphpress/py.typed" in packaged


def left_out() -> list[str]:
    """The packages that the repository has and the wheel has not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [pattern.removesuffix("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["exclude"]]


@pytest.fixture(scope="module")
def imported(wheel) -> dict[str, list[Import]]:
    """What each module in the wheel imports, in functions too, by the name of its file."""
    archive = zipfile.ZipFile(wheel)
    return {name: list(imports_of(archive.read(name).decode())) for name in archive.namelist() if name.endswith(".py")}


@pytest.fixture(scope="module")
def needed(wheel) -> dict[str, set[str]]:
    """The distributions that the wheel asks for, by the extra that does; the hard dependencies by an empty name."""
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    found: dict[str, set[str]] = {}
    for line in Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", []):
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"](\w+)", str(requirement.marker or ""))
        found.setdefault(extra[1] if extra else "", set()).add(canonicalize_name(requirement.name))
    return found


def names_of(distributions: Iterable[str]) -> set[str]:
    """The top-level packages of distributions, by what is installed here."""
    wanted = set(distributions)
    there = packages_distributions()
    return {top for top, by in there.items() if wanted & {canonicalize_name(each) for each in by}}


def test_every_import_in_the_wheel_is_a_dependency_or_comes_with_an_extra(imported, needed):
    product = {name for extra, names in needed.items() if extra not in REPOSITORY for name in names}
    accepted = names_of(product) | set(sys.stdlib_module_names) | {"graphpress"}
    assert {"numba", "coremltools", "ml_dtypes", "yaml"} <= accepted
    other = {
        f"{file}:{each.line}: {each.name}"
        for file, found in imported.items()
        for each in found
        if each.top not in accepted
    }
    assert other == set()


def test_every_dependency_and_every_extra_is_imported_in_the_wheel(imported, needed):
    used = {each.top for found in imported.values() for each in found if not each.is_typing}
    asked = {name for extra, names in needed.items() if extra not in REPOSITORY for name in names}
    assert {name for name in asked if not names_of([name]) & used} == set()


def test_what_comes_with_an_extra_is_imported_where_its_absence_is_reported(imported, needed):
    optional = names_of(set().union(*(needed[extra] for extra in needed if extra)) - needed[""])
    careless = {
        f"{file}:{each.line}: {each.name}"
        for file, found in imported.items()
        for each in found
        if each.top in optional and each.is_late and not each.is_guarded
    }
    assert careless == set()


WITHOUT_EXTRAS = """
import importlib
import sys

hidden = {hidden!r}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Hide())
from graphpress.ir.errors import GraphpressError

for name in {modules!r}:
    try:
        importlib.import_module(name)
    except GraphpressError as error:
        print(name, "|", error)
"""


def test_without_extras_every_module_is_imported_or_says_which_extra_it_needs(wheel, needed, installed, tmp_path):
    archive = zipfile.ZipFile(wheel)
    files = [name for name in archive.namelist() if name.endswith(".py") and not name.endswith("__main__.py")]
    modules = [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files]
    hidden = names_of(set().union(*(needed[extra] for extra in needed if extra)) - needed[""])
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_EXTRAS.format(hidden=sorted(hidden), modules=modules), encoding="utf-8")
    done = subprocess.run([installed, "-I", str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    refused = dict(line.split(" | ") for line in done.stdout.splitlines())
    assert {name.rpartition(".")[0] for name in refused} == {"graphpress.backends", "graphpress.backends.torchao"}
    assert all("pip install 'graphpress[torchao]'" in message for message in refused.values()), refused


def test_the_wheel_neither_imports_nor_names_what_is_only_in_the_repository(wheel, imported):
    packages = left_out()
    assert "graphpress.tools.edsr" in packages
    assert {
        f"{file}:{each.line}"
        for file, found in imported.items()
        for each in found
        if each.name.startswith(tuple(packages))
    } == set()
    archive = zipfile.ZipFile(wheel)
    named = re.compile("|".join(rf"{re.escape(package)}\b" for package in packages))
    texts = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith((".py", ".js", ".html"))}
    assert {name: named.findall(text) for name, text in texts.items() if named.search(text)} == {}


def test_every_folder_with_modules_is_a_package():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {(ROOT / name).parent for name in listed.split() if name.split("/")[0] not in ("tests", "docs")}
    assert {str(folder) for folder in folders if folder.exists() and not (folder / "__init__.py").exists()} == set()

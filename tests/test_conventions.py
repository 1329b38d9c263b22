"""The rules every file of the project keeps."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphpress.passes.framework.registry import registered_passes

ROOT = Path(__file__).parent.parent
MOST_LINES = 400
LONGER = {"ir/graph.py"}  # a core data structure, in one place that a reader scrolls through
# Absolute paths of somebody's machine, and hosts that serve packages.
FOLDERS = ("home", "opt", "root", "tmp", "work", "Users")
MACHINE = re.compile(rf"(?<![\w.])/(?:{'|'.join(FOLDERS)})/[\w.]|pypi\.org|pythonhosted\.org")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files of the repository that exist, text or not."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """The text of a file; empty for binary ones."""
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode()


def test_modules_of_the_ir_and_the_passes_stay_small():
    lines = {
        str(path.relative_to(ROOT)): len(text_of(path).splitlines())
        for folder in ("ir", "passes")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: count for path, count in lines.items() if count > MOST_LINES and path not in LONGER} == {}


def test_no_environment_is_part_of_the_project():
    listed = subprocess.run(["git", "ls-files", ".venv*"], cwd=ROOT, capture_output=True, text=True).stdout
    assert listed == ""


def test_every_module_has_a_name_that_says_what_it_holds(tracked):
    assert [str(path) for path in tracked if path.stem in ("util", "utils", "helpers", "misc", "common")] == []


def test_no_package_loads_lazily_a_name_that_one_of_its_modules_has(tracked):
    # It would be the module, or what is asked for, by which of the two is imported first.
    clashes = []
    inits = [path for path in tracked if path.name == "__init__.py" and "def __getattr__" in text_of(path)]
    assert inits
    for init in inits:
        exported = re.search(r"^__all__ = \[(.*?)\]", text_of(init), re.DOTALL | re.MULTILINE)
        names = set(re.findall(r'"(\w+)"', exported[1])) if exported else set()
        clashes += [str(path.relative_to(ROOT)) for path in init.parent.glob("*.py") if path.stem in names]
    assert clashes == []


def test_no_file_names_a_machine_or_a_package_host(tracked):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if MACHINE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("line", ["cd {}", 'open("{}")', "[x]({})", "path={}"])
def test_machine_paths_are_recognized(folder: str, line: str):
    assert MACHINE.search(line.format(f"/{folder}/.cache"))


@pytest.mark.parametrize("host", ["pypi", "files.pythonhosted"])
def test_package_hosts_are_recognized(host: str):
    assert MACHINE.search(f"https://{host}.org/simple")


@pytest.mark.parametrize("line", ["tests/work/x", "#!/usr/bin/env bash", "import pypika", "a.work/b", "n /work / 2"])
def test_other_text_is_not_taken_for_a_machine_path(line: str):
    assert not MACHINE.search(line)


# Calls that fail a test: a helper that asserts has a name that says so.
ASSERTING = re.compile(r"_?(assert|check)_\w+|raises|warns|fail|verify")


def names_of_empty_tests(text: str) -> Iterator[str]:
    """The names of the tests in a module that cannot fail but by accident."""
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test"):
            parts = list(ast.walk(function))
            called = [part.func for part in parts if isinstance(part, ast.Call)]
            names = [call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in called]
            if not any(isinstance(part, ast.Assert) for part in parts) and not any(map(ASSERTING.fullmatch, names)):
                yield function.name


def test_every_test_asserts_something(tracked):
    modules = [path for path in tracked if path.is_relative_to(ROOT / "tests") and path.match("test_*.py")]
    assert modules
    found = [f"{path.relative_to(ROOT)}: {name}" for path in modules for name in names_of_empty_tests(text_of(path))]
    assert found == []


@pytest.mark.parametrize(
    "body",
    ["assert f()", "assert_effect(f)", "t.assert_close(f(), 1)", "with pytest.raises(E): f()", "f() or pytest.fail()"],
)
def test_assertions_are_recognized(body: str):
    assert list(names_of_empty_tests(f"def test_f():\n    {body}\n")) == []


@pytest.mark.parametrize("body", ["f()", "assertion(f)", "checked(f)", "subprocess.run(f, check=True)", "x = raises"])
def test_tests_that_only_run_something_are_found(body: str):
    assert list(names_of_empty_tests(f"class T:\n    def test_f(self):\n        {body}\n")) == ["test_f"]


def test_documents_mention_existing_files_only(tracked):
    missing = set()
    for document in (path for path in tracked if path.suffix == ".md"):
        text = text_of(document)
        linked = [document.parent / name for name in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)]
        named = [ROOT / name for name in re.findall(r"\bdocs/[\w/-]+\.md\b", text)]
        missing |= {f"{document.name}: {path.relative_to(ROOT)}" for path in (*linked, *named) if not path.exists()}
    assert missing == set()


def test_documents_name_what_can_be_imported(tracked):
    missing = set()
    for document in (path for path in tracked if path.suffix == ".md" and path.name != "CHANGELOG.md"):
        for name in set(re.findall(r"(?<![\w.\[])graphpress(?:\.[A-Za-z]\w*)+", text_of(document))):
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", rf"{re.escape(name)} is now", DeprecationWarning)
                    pkgutil.resolve_name(name)
            except (ImportError, AttributeError, DeprecationWarning) as error:
                missing.add(f"{document.name}: {name}: {error}")
    assert missing == set()


def test_every_page_with_code_is_run_by_a_test(tracked):
    tests = "".join(text_of(path) for path in tracked if path.suffix == ".py" and path.is_relative_to(ROOT / "tests"))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    names = [str(path.relative_to(ROOT)) for path in pages if "\n```python" in text_of(path)]
    assert [name for name in names if f'page("{name}")' not in tests] == []


def test_the_design_page_has_a_row_for_every_pass():
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[a-z0-9-]+`(?:, )?)+) \|", text, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)]
    assert sorted(listed) == sorted(
        each.name for each in registered_passes() if each.__module__.startswith("graphpress.")
    )


def test_the_glossary_has_each_term_once_in_order():
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    terms = [re.sub(r"[^a-z]", "", term.casefold()) for term in re.findall(r"^- \*\*(.+?)\*\*: ", text, re.MULTILINE)]
    assert len(terms) == text.count("\n- ")
    assert terms == sorted(set(terms))


def test_pages_that_need_the_repository_say_so_before_anything_else():
    excluded = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    only_here = re.compile("|".join(re.escape(each.removesuffix("*")) for each in excluded["find"]["exclude"]))
    pages = {path: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
    need = {path.name: text for path, text in pages.items() if only_here.search(text)}
    assert "qat.md" in need
    silent = [name for name, text in need.items() if not re.match(r"# .+\n\n> [^#]*?\bin\s+(> )?the repository", text)]
    assert silent == []


def _yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_continuous_integration_tests_both_ends_of_what_the_metadata_accepts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch,) = (each for each in project["dependencies"] if each.startswith("torch"))
    oldest, above = re.fullmatch(r"torch>=2\.(\d+),<2\.(\d+)", torch).groups()
    matrix = _yaml(".github/workflows/tests.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["torch"] == [f"2.{oldest}.*", f"2.{int(above) - 1}.*"]
    assert f">={matrix['python'][0]}" == project["requires-python"]


def test_hooks_run_what_make_lint_runs_from_the_environment():
    (local,) = _yaml(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    linted = [
        line.removeprefix("$(BIN)/").split(" .")[0].replace(" --check", "") for line in re.findall(r"\t(.+)", recipe)
    ]
    assert [hook["entry"].replace(" --force-exclude", "") for hook in local["hooks"]] == linted

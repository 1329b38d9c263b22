"""The rules every file of the project keeps."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_every_page_with_code_is_run_by_a_test(tracked):
    tests = "".join(text_of(path) for path in tracked if path.suffix == ".py" and path.is_relative_to(ROOT / "tests"))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    names = [str(path.relative_to(ROOT)) for path in pages if "\n```python" in text_of(path)]
    assert [name for name in names if f'page("{name}")' not in tests] == []

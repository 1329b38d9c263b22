"""The tool that tests the tests: which mutants it makes, which of them die, and how it counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

pytest.importorskip("cosmic_ray")

from graphpress.tools.maintenance.mutants import Mutant, digest_of, sample
from graphpress.tools.maintenance.mutation import Configuration, Equivalent, Outcome, Result, classified, current, table

ROOT = Path(__file__).parents[3]
SOURCE = '''"""A module."""

from functools import cache
from typing import Any

Number = int | float


@cache
def limited(value: int | None = 3, *, least: Any = None) -> int | float:
    """Cut `value`."""
    if value > 10:
        raise ValueError("more than " + "ten")
    found = []
    found.append(value + 1)
    return found[0] if least is None else max(found)
'''


def changes(tmp_path: Path, count: int | None = None, seed: int = 0) -> set[tuple[str, str]]:
    (tmp_path / "module.py").write_text(SOURCE)
    return {mutant.change(SOURCE) for mutant in sample(tmp_path, "module.py", count, seed)}


def test_statements_and_results_are_taken_away(tmp_path):
    found = changes(tmp_path)
    assert ("found.append(value + 1)", "pass") in found
    assert ('raise ValueError("more than " + "ten")', "pass") in found
    assert ("return found[0] if least is None else max(found)", "return None") in found
    assert ("if value > 10:", "if not value > 10:") in found


def test_annotations_types_messages_and_caches_are_let_be(tmp_path):
    removed = [line for line, _ in changes(tmp_path)]
    assert removed
    assert not [line for line in removed if line.startswith(("@cache", "Number"))]
    assert not [added for _, added in changes(tmp_path) if added.startswith("raise")]
    assert [added for line, added in changes(tmp_path) if line.startswith("def")] != []  # the default, 3
    assert all("int | None" in added for line, added in changes(tmp_path) if line.startswith("def"))


def test_one_kind_of_change_is_made_once_in_a_place_and_every_mutant_compiles(tmp_path):
    (tmp_path / "module.py").write_text(SOURCE)
    mutants = sample(tmp_path, "module.py", None, 0)
    places = [(mutant.line, mutant.operator.split("_")[0], mutant.occurrence) for mutant in mutants]
    assert len(places) == len(set(places))
    assert len([mutant for mutant in mutants if "ReplaceBinaryOperator" in mutant.operator]) == 1
    for mutant in mutants:
        compile(mutant.apply(SOURCE), "module.py", "exec")


def test_a_sample_depends_on_its_seed_alone_and_grows(tmp_path):
    assert changes(tmp_path, 4) == changes(tmp_path, 4)
    assert len(changes(tmp_path, 4)) == 4
    assert changes(tmp_path, 4) < changes(tmp_path, 7)
    assert any(changes(tmp_path, 4) != changes(tmp_path, 4, seed) for seed in range(1, 4))


def result(path: str, outcome: Outcome, removed: str = "a", added: str = "b") -> Result:
    return Result(Mutant(path, "ReturnNone", 0, 1, "digest"), removed, added, outcome, 1.5)


def test_results_are_read_back():
    one = result("a.py", Outcome.TIMED_OUT, 'x = "\n"')
    assert Result.from_json(one.to_json()) == one


def test_results_about_a_text_that_was_edited_since_are_left_out():
    path = "passes/dce.py"
    now = digest_of((ROOT / path).read_text(encoding="utf-8"))
    kept, stale = (evolve(result(path, Outcome.KILLED), mutant=Mutant(path, "a", 0, 1, d)) for d in (now, "before"))
    assert current([stale, kept, result("passes/cse.py", Outcome.KILLED)], [path, "passes/cse.py"]) == [kept]


def test_equivalents_count_neither_way():
    results = [
        result("a.py", Outcome.KILLED),
        result("a.py", Outcome.TIMED_OUT),
        result("a.py", Outcome.SURVIVED),
        result("b.py", Outcome.SURVIVED),
        result("b.py", Outcome.SURVIVED, added="c"),
        result("b.py", Outcome.KILLED),
    ]
    judged = classified(results, [Equivalent("b.py", "a", "c", "only a message"), Equivalent("a.py", "x", "b", "")])
    assert [each.reason for each in judged] == ["", "", "", "", "only a message", ""]
    assert table(judged).splitlines()[2:] == [
        "| `a.py` | 3 | 2 | 0 | 1 | 67% |",
        "| `b.py` | 3 | 1 | 1 | 1 | 50% |",
        "| `all` | 6 | 3 | 1 | 2 | 60% |",
    ]


def test_the_configuration_names_files_that_exist():
    configuration = Configuration.load()
    assert len(configuration.tests) > 30
    files = {*configuration.tests, *(file for files in configuration.tests.values() for file in files)}
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []
    for each in configuration.equivalents:
        text = (ROOT / each.path).read_text(encoding="utf-8")
        assert [line for line in each.removed.splitlines() if line.strip() not in text] == [], each
        assert each.reason


PROGRAM = """
import sys
from pathlib import Path
from graphpress.tools.maintenance import mutation

mutation.ROOT = Path(sys.argv[1])
mutation.hypothesis.settings.register_profile("no-shrinking")
good = "def double(x):\\n    return 2 * x\\n"
for source in (good, good.replace("*", "+"), "import nothing_of_that_name", "while True: pass"):
    print(mutation.run_tests("src/graphpress/doubling.py", source, ["test_it.py"], 10))
"""
TEST = """
from graphpress.doubling import double

def test_double():
    assert double(3) == 6
"""


def test_a_mutant_lives_where_its_tests_pass_and_no_file_is_touched(tmp_path):
    (tmp_path / "src/graphpress").mkdir(parents=True)
    module = tmp_path / "src/graphpress/doubling.py"
    module.write_text("raise RuntimeError('only the text that is given counts')\n")
    (tmp_path / "test_it.py").write_text(TEST)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stdout.split()]
    assert codes[:2] == [0, 1]
    assert codes[2] > 0
    assert codes[3] < 0
    assert module.read_text().startswith("raise RuntimeError")

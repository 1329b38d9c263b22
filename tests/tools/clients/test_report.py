from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphpress.tools.clients.report import Run, kept, table, versions, with_run
from graphpress.tools.clients.tasks import tasks


def _reply(**figures: Any) -> dict[str, Any]:
    return {"error": None, "bytes": 1000, "prepare": 0.1, "finalize": 0.2, "decibels": 12.3, **figures}


def test_a_row_has_the_figures_of_both_sides() -> None:
    row = Run("a model", _reply(), _reply(bytes=2000, prepare=1.0, decibels=None)).cells()
    assert row == ["a model", "runs", "1,000", "2,000", "0.30", "1.20", "12.30", ""]


@pytest.mark.parametrize(
    ("ours", "peer", "outcome", "is_our_fault"),
    [
        ({"error": "A: no"}, {"error": "B: no"}, "fails on both sides: A: no", False),
        ({"error": "A: no"}, {}, "fails here: A: no", True),
        ({}, {"error": "B: no"}, "runs here; there: B: no", False),
    ],
)
def test_an_outcome_says_whose_fault_a_failure_is(
    ours: dict[str, Any], peer: dict[str, Any], outcome: str, is_our_fault: bool
) -> None:
    run = Run("a model", _reply(**ours), _reply(**peer))
    assert run.cells()[1] == outcome
    assert run.is_our_fault is is_our_fault


def test_a_failed_configuration_of_the_exploration_is_a_failure() -> None:
    good = {"name": "one", "decibels": 30.0, "megabytes": 1.0, "error": None}
    bad = {"name": "two", "decibels": None, "megabytes": 0.0, "error": "C: no"}
    run = Run("exploration", {"rows": [good, bad], "seconds": 2.0}, {"rows": [good, good], "seconds": 3.0})
    assert run.is_our_fault
    assert run.cells()[2:] == ["1,048,576", "2,097,152", "2.00", "3.00", "30.00", "30.00"]


def test_the_table_has_a_row_for_each_name_also_of_what_was_not_run() -> None:
    runs = {name: Run(name, _reply(), _reply()) for name in ("one", "two", "of old")}
    lines = table(runs, ["two", "three", "one"]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| two", "| three", "| one"]
    assert "not run" in lines[3]
    assert all(line.count("|") == 9 for line in lines)


def test_the_last_run_of_each_name_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    assert kept(path) == {}
    first, other = Run("a", _reply(bytes=1), _reply()), Run("b", _reply(), {"error": "A: no"})
    for run in (first, other, Run("a", _reply(bytes=2), _reply())):
        path.write_text(with_run(kept(path), run), encoding="utf-8")
    assert kept(path) == {"a": Run("a", _reply(bytes=2), _reply()), "b": other}


def test_the_versions_are_those_of_both_sides() -> None:
    runs = [
        Run("a", {"versions": {"b": "2", "a": "1"}}, {"versions": {"a": "1"}}),
        Run("b", {}, {"versions": {"c": "3"}}),
    ]
    assert versions(runs) == "a 1, b 2, c 3"


def test_the_clients_that_need_a_checkout_take_it_from_outside_the_repository() -> None:
    found = tasks("elsewhere")
    assert len({task.name for task in found}) == len(found)
    assert {task.order["checkout"] for task in found if task.needs_checkout} == {"elsewhere"}
    assert {task.order["do"] for task in found if not task.needs_checkout} == {"lower"}
    assert {task.environment for task in found} == {"zoo", "executorch"}

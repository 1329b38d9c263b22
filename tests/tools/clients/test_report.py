from __future__ import annotations

from typing import Any

import pytest

from graphpress.tools.clients.__main__ import tasks
from graphpress.tools.clients.report import Run, table


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


def test_the_table_has_a_row_for_each_run() -> None:
    lines = table([Run("one", _reply(), _reply()), Run("two", _reply(), _reply())]).splitlines()
    assert len(lines) == 4
    assert all(line.count("|") == 9 for line in lines)


def test_every_recipe_is_a_task_with_the_checkout_outside_the_repository() -> None:
    found = tasks("elsewhere")
    assert {task["checkout"] for task in found.values()} == {"elsewhere"}
    assert {task["variant"] for task in found.values() if task["do"] == "export"} == {"macOS", "iOS"}

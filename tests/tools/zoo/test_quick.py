"""The judgement of the quick subset, and the page of results that cover a part of the zoo."""

from __future__ import annotations

from typing import Any

import pytest

from graphpress.tools.zoo import quick, table
from graphpress.tools.zoo.models import every


def record(stage: str, status: str, error: str | None = None) -> dict[str, Any]:
    return {"model": "m", "stage": stage, "status": status, "error": error, "figures": {}}


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (record("text", "ok"), []),
        (record("states", "skipped", "no states"), []),
        (record("text", "failed", "differs"), ["m, text: differs"]),
        (record("coreai:w8a8", "skipped", "w8a8 fails: SpecError"), ["m, coreai:w8a8: w8a8 fails: SpecError"]),
        (record("w4", "failed", "no lowering for x"), []),
        (record("w4", "failed", "another error"), ["m, w4: another error"]),
        (record("w4", "ok"), ["m, w4: works; it is listed as failing with 'no lowering'"]),
    ],
)
def test_a_stage_must_do_what_is_listed(
    found: dict[str, Any], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "KNOWN_FAILURES", {("m", "w4"): "no lowering"})
    assert quick.differences([found]) == lines


def test_listed_failures_are_stages_that_the_subset_runs() -> None:
    assert {model for model, _ in quick.KNOWN_FAILURES} <= set(quick.MODELS)
    assert {stage for _, stage in quick.KNOWN_FAILURES} <= set(quick.STAGES)


def test_the_page_says_how_many_architectures_it_covers_and_with_how_many_calibration_sets() -> None:
    models = every()
    w8a8 = {**record("w8a8", "ok"), "figures": {"decibels": 30.25, "calibration sets": 1}}
    page = table.page(models, {"bert": {"w8a8": w8a8}})
    assert f"covers 1 of the zoo's {len(models)} architectures**; {len(models) - 1} have no results" in page
    assert "Calibration sets of each architecture: 1." in page
    assert "| bert | yes |" in page

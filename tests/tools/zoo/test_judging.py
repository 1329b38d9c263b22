"""The judgement of the zoo's results."""

from __future__ import annotations

from typing import Any

import pytest

from graphpress.tools.zoo.judging import Failure, Whose, failures, grouped, works


def record(status: str, error: str | None = None) -> dict[str, Any]:
    return {"status": status, "error": error, "figures": {}}


@pytest.mark.parametrize(("alone", "whose"), [("ok", Whose.OURS), ("failed", Whose.CONVERTER)])
def test_a_failed_conversion_is_ours_only_if_the_converter_alone_succeeds(alone: str, whose: Whose) -> None:
    records = {"coreai:w8a8": record("failed", "no"), "coreai:alone": record(alone, "no")}
    assert failures("m", records)[0].whose is whose


def test_a_failed_conversion_is_not_judged_before_the_converter_has_run_alone() -> None:
    assert [each.whose for each in failures("m", {"coreai:w8a8": record("failed", "no")})] == [Whose.UNKNOWN]


def test_a_failed_export_is_torchs() -> None:
    assert [each.whose for each in failures("m", {"export": record("failed", "no")})] == [Whose.EXPORT]


def test_a_side_works_if_all_its_stages_do_but_for_those_that_do_not_apply() -> None:
    assert works({"capture": record("ok"), "dynamic": record("skipped", "no dynamic size")}, "torch") is True
    assert works({"capture": record("ok"), "w8a8": record("failed", "no")}, "torch") is False
    assert works({"capture": record("ok"), "batch": record("skipped", "W8A8 fails")}, "torch") is False
    assert works({"capture": record("ok")}, "Core ML") is None


def test_failures_that_differ_in_names_and_numbers_are_one_group() -> None:
    found = [
        Failure("a", "w8a8", "no 'x' of 12", Whose.OURS),
        Failure("b", "w8a8", "no 'y' of 7", Whose.OURS),
        Failure("c", "w8a8", "another", Whose.OURS),
    ]
    assert [[each.model for each in group] for _, group in grouped(found)] == [["a", "b"], ["c"]]

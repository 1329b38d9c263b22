"""The judgement of the zoo's results."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from graphpress.tools.zoo.judging import Failure, Gap, Whose, failures, gap, grouped, works
from graphpress.tools.zoo.models import every
from graphpress.tools.zoo.table import page
from graphpress.tools.zoo.worker.stage import Decibels, decibels_of


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


def test_the_page_compares_what_both_sides_have() -> None:
    def figures(stage: str, **found: float) -> dict[str, Any]:
        return {stage: {**record("ok"), "figures": found, "cpu": 1800.0}}

    names = list(every())[:3]
    results = {
        names[0]: figures("w8a8", decibels=30.0, prepare=1.0) | figures("peer", decibels=29.0, prepare=4.0),
        names[1]: figures("w8a8", decibels=20.0, prepare=1.0) | figures("peer", decibels=21.0, prepare=4.0),
        names[2]: figures("w8a8", decibels=9.0, prepare=1.0),
    }
    results[names[0]] |= figures("coreai:w8a8", ops=100) | figures("peer:coreai", ops=90)
    text = page(every(), results)
    assert "Decibels of the 2 that both sides quantize: 25.0 on the mean, the peer 25.0;" in text
    assert f"more than 0.2 below the peer: {names[1]} (1.0);" in text
    assert "not by its standard error: none." in text
    assert f"more than the peer: {names[0]}." in text
    assert "CPU seconds of `prepare`, 2 architectures: 2, the peer 8." in text
    assert "All stages of this page took 3.5 CPU hours." in text


def sets_of(*noises: float) -> dict[str, Any]:
    """Figures of sets whose outputs have these ratios of noise to signal."""
    sets = []
    for noise in noises:
        sets.append(Decibels())
        sets[-1].add([torch.ones(4)], [torch.ones(4) + math.sqrt(noise)])
    return {"figures": decibels_of(sets)}


def test_a_gap_that_every_set_shows_counts_and_one_that_a_single_set_makes_does_not() -> None:
    peer = sets_of(1e-3, 2e-3, 3e-3, 2e-3)
    every_set = gap({"peer": peer, "w8a8": sets_of(1.2e-3, 2.4e-3, 3.6e-3, 2.4e-3)})
    assert every_set is not None
    assert every_set.decibels == pytest.approx(10 * math.log10(1.2), abs=0.02)
    assert every_set.exceeds(0.2)
    one_set = gap({"peer": peer, "w8a8": sets_of(1e-3, 2e-3, 3e-3, 3.6e-3)})
    assert one_set is not None
    assert one_set.decibels == pytest.approx(every_set.decibels, abs=0.02)
    assert not one_set.exceeds(0.2)


def test_the_error_of_a_gap_is_that_of_a_mean_where_differences_are_small() -> None:
    shifts = (1.01, 0.98, 1.03, 1.0, 0.99, 1.02)
    found = gap({"peer": sets_of(*[1e-3] * 6), "w8a8": sets_of(*(1e-3 * each for each in shifts))})
    decibels = torch.tensor([10 * math.log10(each) for each in shifts], dtype=torch.float64)
    assert found is not None
    assert found.error == pytest.approx(float(decibels.std() / math.sqrt(6)), abs=0.01)


def test_a_gap_without_sets_or_with_other_sets_has_no_error() -> None:
    alone = {"figures": {"decibels": 20.0}}
    assert gap({"peer": {"figures": {"decibels": 21.0}}, "w8a8": alone}) == Gap(1.0, None)
    assert gap({"peer": sets_of(1e-3, 2e-3), "w8a8": sets_of(1e-3, 2e-3, 1e-3)}).error is None  # type: ignore[union-attr]
    assert gap({"w8a8": alone}) is None

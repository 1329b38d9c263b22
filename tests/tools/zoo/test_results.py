"""What the zoo keeps, runs again and measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphpress.tools.zoo.models import every
from graphpress.tools.zoo.quick import MODELS
from graphpress.tools.zoo.running import Results, missing
from graphpress.tools.zoo.worker.stage import Decibels, Fault


def test_the_last_record_of_a_stage_counts_and_a_torn_line_is_ignored(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.add({"model": "m", "stage": "export", "status": "failed"})
    results.add({"model": "m", "stage": "export", "status": "ok"})
    with results.path.open("a") as file:
        file.write('{"model": "m", "stage": "te')
    assert [each["status"] for each in results.read().values()] == ["ok"]


@pytest.mark.parametrize(
    ("rerun", "stages"), [("missing", ["text"]), ("changed", ["capture", "text"]), ("failed", ["w8a8", "text"])]
)
def test_only_what_a_rerun_asks_for_runs_again(rerun: str, stages: list[str]) -> None:
    known = {
        ("m", "export"): {"status": "ok", "error": None, "version": "new"},
        ("m", "capture"): {"status": "ok", "error": None, "version": "old"},
        ("m", "w8a8"): {"status": "failed", "error": "no", "version": "new"},
        ("m", "states"): {"status": "skipped", "error": "no states", "version": "new"},
    }
    assert missing(known, "m", ["export", "capture", "w8a8", "states", "text"], "new", rerun) == stages


def test_decibels_weigh_outputs_alike_whatever_their_scale() -> None:
    decibels = Decibels()
    decibels.add([torch.full((4,), 1e3), torch.ones(4)], [torch.full((4,), 1.1e3), torch.full((4,), 1.1)])
    assert decibels.value == pytest.approx(20.0, abs=0.01)


def test_an_output_that_becomes_nan_is_a_fault() -> None:
    with pytest.raises(Fault, match="output 0 is not finite in 1 of 2"):
        Decibels().add([torch.ones(2)], [torch.tensor([1.0, float("nan")])])


def test_the_zoo_has_120_architectures_and_the_quick_subset_is_part_of_it() -> None:
    models = every()
    assert len(models) >= 120
    assert set(MODELS) <= set(models)


def test_a_model_of_the_zoo_is_the_same_each_time() -> None:
    model = every()["squeeze excite"]
    one, other = model.build(), model.build()
    assert torch.equal(one(*model.example(3)), other(*model.example(3)))

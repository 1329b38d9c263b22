"""Children of the zoo's worker: what they report, and what becomes of stages whose process ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import pytest

from graphpress.tools.zoo.worker.forking import Order, Report, run

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def work(model: str, stages: Sequence[str], report: Callable[[Report], None]) -> None:
    for stage in stages:
        if stage == "crash":
            os.write(2, b"the runtime gave up\n")
            os._exit(3)
        if stage == "hang":
            time.sleep(60)
        started = time.monotonic()
        while stage == "compute" and time.monotonic() < started + 60:
            pass
        report({"stage": stage, "status": "ok", "error": None, "figures": {"process": os.getpid()}})


def test_every_stage_of_every_architecture_is_reported_by_the_child_of_its_architecture() -> None:
    found = list(run(Order("ours", {"a": ("one", "two"), "b": ("one",), "c": ()}, at_once=2), work))
    assert sorted((each["model"], each["stage"]) for each in found) == [("a", "one"), ("a", "two"), ("b", "one")]
    assert len({each["figures"]["process"] for each in found}) == 2
    assert os.getpid() not in {each["figures"]["process"] for each in found}


def test_a_stage_that_ends_its_process_has_failed_and_those_after_it_run() -> None:
    found = list(run(Order("ours", {"a": ("one", "crash", "two")}), work))
    assert [(each["stage"], each["status"]) for each in found] == [("one", "ok"), ("crash", "failed"), ("two", "ok")]
    assert found[1]["error"] == "ended the process: the runtime gave up"


@pytest.mark.parametrize(("stage", "passed"), [("hang", "4 seconds"), ("compute", "1 CPU seconds")])
def test_a_stage_that_takes_too_long_has_failed_and_those_after_it_run(stage: str, passed: str) -> None:
    found = list(run(Order("ours", {"a": (stage, "one")}, stage_seconds=1), work))
    assert [(each["stage"], each["status"]) for each in found] == [(stage, "failed"), ("one", "ok")]
    assert found[0]["error"].startswith(f"took more than {passed}")

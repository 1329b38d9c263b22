"""Runs architectures in children that are forked from a process that has imported every package.

Importing torch and the converters costs more than most architectures do; the parent pays it once. It must not have
started threads when it forks, which Core AI's runtime does: the parent imports, and runs no stage.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NoReturn

import attrs

Report = dict[str, Any]
"""A record of a stage: its name, status, error and figures."""
Work = Callable[[str, Sequence[str], Callable[[Report], None]], None]
"""Runs stages of an architecture and reports each one that has ended."""

_WAITING = 4


@attrs.frozen
class Order:
    """What a worker runs, and its limits.

    Attributes:
        side: "ours" or "peer".
        tasks: the stages of each architecture, in their order.
        at_once: how many children run at once.
        calibration_sets: how many sets of batches decibels are pooled over.
        stage_seconds: CPU seconds after which a stage has failed, and a quarter of the wall-clock seconds, so that a
            busy machine gives the same results and a stage that waits for ever ends.
        megabytes: memory of a child.
    """

    side: str
    tasks: Mapping[str, Sequence[str]]
    at_once: int = 1
    calibration_sets: int = 6
    stage_seconds: int = 150
    megabytes: int = 6000


def run(order: Order, work: Work) -> Iterator[Report]:
    """Run the tasks of `order`, and yield the record of each stage with its architecture.

    A stage that ends its process, or takes too long, has failed; those after it run in a new child.
    """
    waiting = deque((model, list(stages)) for model, stages in order.tasks.items() if stages)
    running: dict[int, _Child] = {}
    while waiting or running:
        while waiting and len(running) < order.at_once:
            child = _fork(*waiting.popleft(), order, work)
            running[child.process] = child
        process, status = os.wait()
        if process not in running:
            continue
        child = running.pop(process)
        left = list(child.stages)
        for record in child.records(status, order.stage_seconds):
            left.remove(record["stage"])
            yield {"model": child.model, **record}
        if left:
            waiting.appendleft((child.model, left))


@attrs.frozen
class _Child:
    process: int
    model: str
    stages: list[str]
    reports: IO[str]
    log: IO[str]

    def records(self, status: int, seconds: int) -> Iterator[Report]:
        """Yield what the child reported, then the stage that ended it, and close its files."""
        with self.reports, self.log:
            self.reports.seek(0)
            found = [json.loads(line) for line in self.reports if line.endswith("\n")]
            yield from found
            if len(found) < len(self.stages):
                self.log.seek(0)
                last = (self.log.read().strip().splitlines() or [""])[-1][:300]
                limits = {signal.SIGPROF: f"{seconds} CPU seconds", signal.SIGALRM: f"{_WAITING * seconds} seconds"}
                passed = limits.get(signal.Signals(os.WTERMSIG(status))) if os.WIFSIGNALED(status) else None
                problem = f"took more than {passed}" if passed else "ended the process"
                stage = self.stages[len(found)]
                yield {"stage": stage, "status": "failed", "error": f"{problem}: {last}", "figures": {}}


def _fork(model: str, stages: list[str], order: Order, work: Work) -> _Child:
    reports = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by `records`)
    log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
    process = os.fork()
    if process == 0:
        _be_child(model, stages, order, work, reports, log)
    return _Child(process, model, stages, reports, log)


def _be_child(model: str, stages: list[str], order: Order, work: Work, reports: IO[str], log: IO[str]) -> NoReturn:
    code = 1
    try:
        for output in (1, 2):
            os.dup2(log.fileno(), output)
        limit = order.megabytes << 20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

        def report(record: Report) -> None:
            _limit_time(order.stage_seconds)
            reports.write(json.dumps(record) + "\n")
            reports.flush()

        _limit_time(order.stage_seconds)
        work(model, stages, report)
        code = 0
    finally:
        os._exit(code)


def _limit_time(seconds: int) -> None:
    """End the process after so many CPU seconds from now, or a multiple of wall-clock seconds."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(_WAITING * seconds)

"""Run stages in child processes with limits, and keep their results in a file of JSON lines."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import attrs

ROOT = Path(__file__).resolve().parents[2]
SIDES = {"ours": ROOT / ".venv-zoo/bin/python", "peer": ROOT / ".venv-zoo-peer/bin/python"}
MEGABYTES = 6000
STAGE_SECONDS = 150
START_SECONDS = 90

Key = tuple[str, str]
"""An architecture and a stage."""


@attrs.frozen
class Results:
    """The file of results: the last record of an architecture, stage and version counts."""

    path: Path

    def read(self) -> dict[Key, dict[str, Any]]:
        """Return the last record of each architecture and stage, of any version."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return {(each["model"], each["stage"]): each for each in records}

    def add(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


@attrs.frozen
class Runner:
    """Runs the stages of one side; `version` is the digest of the sources that results are kept under."""

    side: str
    results: Results
    version: str

    def run(self, model: str, stages: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Run `stages` of `model`, continuing in a new process after one that ended its own."""
        waiting = list(stages)
        while waiting:
            before = len(waiting)
            for record in self._in_one_process(model, waiting):
                waiting.remove(record["stage"])
                record = {"model": model, "version": self.version, **record}
                self.results.add(record)
                yield record
            assert len(waiting) < before

    def _in_one_process(self, model: str, stages: Sequence[str]) -> Iterator[dict[str, Any]]:
        with tempfile.TemporaryFile("w+") as log, self._path() as path:
            process = subprocess.Popen(
                [*self._command(), model, str(MEGABYTES), *stages],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
            try:
                yield from self._records(process, stages[0], log)
            finally:
                process.kill()
                process.wait()

    def _records(self, process: subprocess.Popen[str], first: str, log: IO[str]) -> Iterator[dict[str, Any]]:
        assert process.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
        stage, limit = first, START_SECONDS
        while True:
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                line, problem = "", f"took more than {limit} seconds"
            else:
                problem = "ended the process"
            if line:
                reply = json.loads(line)
                if "start" in reply:
                    stage, limit = reply["start"], STAGE_SECONDS
                    continue
                yield reply
                stage = ""
                continue
            if stage:
                log.seek(0)
                last = (log.read().strip().splitlines() or [""])[-1][:300]
                yield {"stage": stage, "status": "failed", "error": f"{problem}: {last}", "figures": {}}
            return

    def _command(self) -> list[str]:
        return [str(SIDES[self.side]), "-P", "-m", "graphpress.tools.zoo.worker", self.side]

    @contextmanager
    def _path(self) -> Iterator[str]:
        """Yield the `PYTHONPATH` of a child: of ours the sources, of the peer's side our tools alone."""
        if self.side == "ours":
            yield str(ROOT / "src")
            return
        with tempfile.TemporaryDirectory(prefix="zoo-path-") as directory:
            package = Path(directory) / "graphpress"
            package.mkdir()
            (package / "tools").symlink_to(ROOT / "tools", target_is_directory=True)
            yield directory


def _forward(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def missing(known: dict[Key, dict[str, Any]], model: str, stages: Iterable[str], version: str, rerun: str) -> list[str]:
    """Return the stages without a result: none at all, one of another version, or a failed one.

    `rerun` is "missing", "changed" or "failed".
    """
    found = []
    for stage in stages:
        record = known.get((model, stage))
        again = record is not None and (
            (rerun == "changed" and record["version"] != version)
            or (rerun == "failed" and record["status"] != "ok" and not _inapplicable(record))
        )
        if record is None or again:
            found.append(stage)
    return found


def _inapplicable(record: dict[str, Any]) -> bool:
    return record["status"] == "skipped" and str(record["error"]).startswith("no ")

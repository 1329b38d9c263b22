"""Run orders in the environment of their side, and keep their results in a file of JSON lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from graphpress.ir.errors import GraphpressError
from graphpress.tools.zoo.worker.forking import Order

ROOT = Path(__file__).resolve().parents[2]
SIDES = {"ours": ROOT / ".venv-zoo/bin/python", "peer": ROOT / ".venv-zoo-peer/bin/python"}

Key = tuple[str, str]
"""An architecture and a stage."""


class WorkerError(GraphpressError):
    """The process that runs stages ended before its order did."""


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
    """Runs orders; `version` is the digest of the sources that results are kept under."""

    results: Results
    version: str

    def run(self, order: Order) -> Iterator[dict[str, Any]]:
        """Run an order in the environment of its side; keep and yield its records."""
        with _path(order.side) as path, tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                [SIDES[order.side], "-P", "-m", "graphpress.tools.zoo.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                json.dump(attrs.asdict(order), process.stdin)
                process.stdin.close()
                for line in process.stdout:
                    record = {"version": self.version, **json.loads(line)}
                    self.results.add(record)
                    yield record
                if process.wait():
                    log.seek(0)
                    raise WorkerError(
                        f"the worker of {order.side} ended with {process.returncode}: {log.read()[-2000:]}"
                    )
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@contextmanager
def _path(side: str) -> Iterator[str]:
    """Yield the `PYTHONPATH` of a worker: of ours the sources, of the peer's side our tools alone."""
    if side == "ours":
        yield str(ROOT / "src")
        return
    with tempfile.TemporaryDirectory(prefix="zoo-path-") as directory:
        package = Path(directory) / "graphpress"
        package.mkdir()
        (package / "tools").symlink_to(ROOT / "tools", target_is_directory=True)
        yield directory


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

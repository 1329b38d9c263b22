"""The two sides of a comparison, and the process a side runs its tasks in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from graphpress.ir.errors import GraphpressError

ROOT = Path(__file__).resolve().parents[2]
PEER_PYTHON = ROOT / ".venv-peer" / "bin" / "python"


class BenchmarkError(GraphpressError):
    """A benchmark cannot run: an environment is missing, or a worker died."""


@attrs.frozen
class Side:
    """An interpreter, the package measured in it, and what it needs on `PYTHONPATH` to find the worker."""

    name: str
    package: str
    python: str
    path: str | None = None


def ours() -> Side:
    """Return our side: this interpreter."""
    return Side("ours", "graphpress", sys.executable)


@contextmanager
def peer(python: Path = PEER_PYTHON) -> Iterator[Side]:
    """Yield the peer's side. Its environment sees our `tools` folder, and nothing else of ours."""
    if not python.exists():
        raise BenchmarkError(f"no peer environment at {python}; tools/bench/peer_env.sh makes it")
    with tempfile.TemporaryDirectory(prefix="graphpress-bench-") as directory:
        package = Path(directory) / "graphpress"
        package.mkdir()
        (package / "tools").symlink_to(ROOT / "tools", target_is_directory=True)
        yield Side("peer", "coreai_opt", str(python), directory)


class Worker:
    """A process of one side that runs tasks one after another; use it as a context manager."""

    def __init__(self, side: Side):
        self.side = side
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (closed with the worker)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if side.path is not None:
            environment["PYTHONPATH"] = side.path
        self._process = subprocess.Popen(
            # -P: a checkout in the current folder must not pass for the installed package.
            [side.python, "-P", "-m", "graphpress.tools.bench.worker", side.package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self._process.kill()
        self._process.communicate()
        self._log.close()

    def run(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run one task and return the worker's reply; a task that failed replies with `error`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
        except BrokenPipeError:
            raise self._died(task) from None
        reply = self._process.stdout.readline()
        if not reply:
            raise self._died(task)
        return json.loads(reply)

    def _died(self, task: dict[str, Any]) -> BenchmarkError:
        self._log.seek(0)
        last = self._log.read().strip()[-800:]
        return BenchmarkError(f"the worker of {self.side.name} died in {task}; the last it said:\n{last}")

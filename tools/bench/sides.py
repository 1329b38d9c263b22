"""The two sides of a comparison, run alternately in worker processes."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from graphpress.ir.errors import GraphpressError

ROOT = Path(__file__).resolve().parents[2]
PEER_PYTHON = ROOT / ".venv-peer" / "bin" / "python"


class BenchmarkError(GraphpressError):
    """A benchmark that cannot run: an environment is missing, or a worker died."""


class OutOfTime(BenchmarkError):
    """A worker that ended because a task took more CPU time than its limit."""


@attrs.frozen
class Side:
    """An interpreter, the measured package, the `PYTHONPATH` for the worker, and the worker's module."""

    name: str
    package: str
    python: str
    path: str | None = None
    worker: str = "graphpress.tools.bench.worker"


def ours() -> Side:
    """Return our side: this interpreter."""
    return Side("ours", "graphpress", sys.executable)


@contextmanager
def peer(python: Path = PEER_PYTHON) -> Iterator[Side]:
    """Yield the peer's side, whose environment can import our `tools` folder only.

    Raises:
        BenchmarkError: if the environment is missing.
    """
    if not python.exists():
        raise BenchmarkError(f"no peer environment at {python}; tools/bench/peer_env.sh makes it")
    with importing_tools_only() as path:
        yield Side("peer", "coreai_opt", str(python), path)


@contextmanager
def importing_tools_only() -> Iterator[str]:
    """Yield a `PYTHONPATH` on which `graphpress` holds our `tools` folder and nothing else."""
    with tempfile.TemporaryDirectory(prefix="graphpress-bench-") as directory:
        package = Path(directory) / "graphpress"
        package.mkdir()
        (package / "tools").symlink_to(ROOT / "tools", target_is_directory=True)
        yield directory


class Worker:
    """A process of one side that runs tasks in sequence; use it as a context manager."""

    def __init__(self, side: Side):
        self.side = side
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (closed with the worker)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if side.path is not None:
            environment["PYTHONPATH"] = side.path
        self._process = subprocess.Popen(
            # -P: do not import a checkout in the current folder instead of the installed package.
            [side.python, "-P", "-m", side.worker, side.package],
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
        if self._process.wait() == -signal.SIGPROF:
            return OutOfTime(f"{self.side.name} took longer than its limit in {task}")
        self._log.seek(0)
        last = self._log.read().strip()[-800:]
        return BenchmarkError(f"the worker of {self.side.name} died in {task}; the last it said:\n{last}")


Measured = tuple[str, str]
"""The label of a task (`first`, `warm`) and the name of a measurement."""


@attrs.frozen
class Benchmark:
    """Tasks per process: each inner list runs in order in one fresh process of a side.

    A task's `label` distinguishes its measurements; a task without a label only warms up. `ratios` are numerator over
    denominator.
    """

    title: str
    processes: Sequence[Sequence[dict[str, Any]]]
    ratios: Sequence[tuple[Measured, Measured]] = ()


@attrs.define
class Comparison:
    """The measurements of one benchmark: per side, per (label, name), the value of every run.

    `weights` holds, per side, the squared error and the sum of squares of each weight compressed in the last run.
    """

    benchmark: Benchmark
    sides: list[str]
    cpu: dict[str, dict[Measured, list[float]]] = attrs.field(factory=dict)
    wall: dict[str, dict[Measured, list[float]]] = attrs.field(factory=dict)
    facts: dict[str, dict[Measured, list[float]]] = attrs.field(factory=dict)
    weights: dict[str, dict[str, tuple[float, float]]] = attrs.field(factory=dict)
    errors: dict[str, dict[str, str]] = attrs.field(factory=dict)

    def median(self, clock: str, side: str, measured: Measured) -> float | None:
        """Return the median over runs of `clock` (`cpu`, `wall` or `facts`), None if there was no run."""
        values = getattr(self, clock).get(side, {}).get(measured)
        return statistics.median(values) if values else None

    def ratio(self, side: str, numerator: Measured, denominator: Measured) -> float | None:
        """Return the median over runs of one CPU time over another of the same run."""
        runs = self.cpu.get(side, {})
        pairs = list(zip(runs.get(numerator, []), runs.get(denominator, []), strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs and all(b for _, b in pairs) else None

    def shared_weights(self) -> list[str]:
        """Return the weights that every side compressed, in order."""
        by_side = [self.weights.get(side, {}) for side in self.sides]
        return [name for name in by_side[0] if all(name in weights for weights in by_side)]

    def weight_error(self, side: str, names: Sequence[str]) -> float | None:
        """Return the total squared error of these weights relative to their sum of squares, or None without weights."""
        if not names:
            return None
        errors, squares = zip(*(self.weights[side][name] for name in names), strict=True)
        return sum(errors) / sum(squares)

    def names(self, clock: str) -> list[Measured]:
        """Return the measurements of `clock`, in the order of measurement."""
        return list(dict.fromkeys(key for runs in getattr(self, clock).values() for key in runs))

    def add(self, side: str, label: str, reply: dict[str, Any]) -> None:
        """Add the reply of one run of one task."""
        if "error" in reply:
            self.errors.setdefault(side, {})[label] = reply["error"]
            return
        for name, seconds in reply["seconds"].items():
            for clock in ("cpu", "wall"):
                getattr(self, clock).setdefault(side, {}).setdefault((label, name), []).append(seconds[clock])
        for name, fact in reply["facts"].items():
            self.facts.setdefault(side, {}).setdefault((label, name), []).append(fact)
        if reply.get("weights"):
            self.weights[side] = reply["weights"]


def compare(
    benchmark: Benchmark,
    sides: Sequence[Side],
    repeats: int = 3,
    progress: Callable[[str], None] = lambda message: None,
) -> Comparison:
    """Run `benchmark` `repeats` times on every side, A B A B, each time in fresh processes."""
    comparison = Comparison(benchmark, [side.name for side in sides])
    for repeat in range(repeats):
        for side in sides:
            if side.name in comparison.errors:
                continue  # a failed benchmark would fail again
            progress(f"{benchmark.title}: {side.name}, run {repeat + 1} of {repeats}")
            for tasks in benchmark.processes:
                with Worker(side) as worker:
                    for task in tasks:
                        reply = worker.run(task)
                        if "label" in task:
                            comparison.add(side.name, task["label"], reply)
    return comparison

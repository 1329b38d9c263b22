"""Measure every workload on every framework in turns, and print and store the ratios."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict, define, field
from rich.console import Console
from rich.table import Table

from graphpress.tools.bench.framework.workloads import SMALLER, TITLES
from graphpress.tools.bench.sides import ROOT, BenchmarkError, OutOfTime, Side, Worker, importing_tools_only

PYTHON = ROOT / ".venv-frameworks" / "bin" / "python"
WORKER = "graphpress.tools.bench.framework.worker"
OTHERS = {"xDSL": "xdsl_side", "onnx-ir": "onnx_side", "torch.fx": "fx_side", "TVM": "tvm_side"}
NODES = 20_000
LARGE = 200_000
LIMIT = 20.0


@define
class Measurement:
    """CPU seconds of one workload per side, by node count.

    Attributes:
        missing: why a side has none.
        limits: the CPU seconds that a side exceeded.
    """

    workload: str
    nodes: int
    seconds: dict[str, list[float]] = field(factory=dict)
    missing: dict[str, str] = field(factory=dict)
    limits: dict[str, float] = field(factory=dict)

    def median(self, side: str) -> float | None:
        """Return the median over runs, or None without one."""
        runs = self.seconds.get(side)
        return statistics.median(runs) if runs else None


def ours() -> Side:
    """Return our side: this interpreter."""
    return Side("ours", "ours", sys.executable, worker=WORKER)


@contextmanager
def others(python: Path = PYTHON) -> Iterator[list[Side]]:
    """Yield the other frameworks, whose environment can import our `tools` folder only.

    Raises:
        BenchmarkError: if the environment is missing.
    """
    if not python.exists():
        raise BenchmarkError(f"no environment at {python}; tools/bench/framework/environment.sh makes it")
    with importing_tools_only() as path:
        yield [Side(name, module, str(python), path, WORKER) for name, module in OTHERS.items()]


def measure(
    sides: Sequence[Side],
    workloads: Sequence[str] = tuple(TITLES),
    nodes: int = NODES,
    repeats: int = 3,
    progress: Callable[[str], None] = lambda message: None,
    limit: float = LIMIT,
) -> tuple[list[Measurement], dict[str, dict[str, str]]]:
    """Run each workload `repeats` times on every side, A B A B, and return the seconds and the versions.

    A side that takes more than `limit` CPU seconds for a call is not run again on that workload.
    """
    found: list[Measurement] = []
    with ExitStack() as stack:
        workers = {side.name: stack.enter_context(Worker(side)) for side in sides}
        versions = {name: worker.run({"versions": True}).get("versions", {}) for name, worker in workers.items()}
        for workload in workloads:
            measurement = Measurement(workload, nodes // SMALLER.get(workload, 1))
            found.append(measurement)
            for _ in range(repeats):
                for side in sides:
                    progress(f"{TITLES[workload]}: {side.name}")
                    _time(side, measurement, limit, workers, stack)
    return found, versions


def _time(side: Side, measurement: Measurement, limit: float, workers: dict[str, Worker], stack: ExitStack) -> None:
    """Add one run of a side to a measurement, unless it has none; a worker that exceeds the limit is made again."""
    name = side.name
    if name in measurement.missing:
        return
    try:
        reply = workers[name].run({"workload": measurement.workload, "nodes": measurement.nodes, "limit": limit})
    except OutOfTime as error:
        measurement.missing[name], measurement.limits[name] = str(error), limit
        workers[name] = stack.enter_context(Worker(side))
        return
    if reply.get("seconds") is None:
        measurement.missing[name] = reply.get("error", "no counterpart")
    else:
        measurement.seconds.setdefault(name, []).append(reply["seconds"])


def measure_growth(
    workloads: Sequence[str] = tuple(TITLES),
    nodes: int = NODES,
    large: int = LARGE,
    repeats: int = 3,
    progress: Callable[[str], None] = lambda message: None,
    limit: float = 10 * LIMIT,
) -> list[tuple[Measurement, Measurement]]:
    """Run each workload on our side at two sizes in turns, so that the load of the machine is in both alike."""
    pairs, side = [], ours()
    with ExitStack() as stack:
        workers = {side.name: stack.enter_context(Worker(side))}
        for workload in workloads:
            smaller = SMALLER.get(workload, 1)
            pair = Measurement(workload, nodes // smaller), Measurement(workload, large // smaller)
            pairs.append(pair)
            for _ in range(repeats):
                for each in pair:
                    progress(f"{TITLES[workload]}: {each.nodes:,} nodes")
                    _time(side, each, limit, workers, stack)
    return pairs


def print_ratios(console: Console, found: Sequence[Measurement], versions: dict[str, dict[str, str]]) -> None:
    """Print our seconds, and ours over each other side's: below 1 we are faster."""
    names = [name for name in versions if name != "ours"]
    table = Table("", "nodes", "ours, s", *(f"ours / {name}" for name in names), title="CPU seconds")
    for measurement in found:
        mine = measurement.median("ours")
        cells = [_cell(mine, measurement, name) for name in names]
        seconds = "-" if mine is None else f"{mine:.4f}"
        table.add_row(TITLES[measurement.workload], f"{measurement.nodes:,}", seconds, *cells)
    console.print(table)
    for name, packages in versions.items():
        console.print(f"{name}: " + ", ".join(f"{package} {version}" for package, version in packages.items()))


def print_growth(console: Console, pairs: Sequence[tuple[Measurement, Measurement]]) -> None:
    """Print our seconds at ten times the nodes over those at the size compared."""
    table = Table("", "seconds", "times the smaller graph", title=f"Ours at {LARGE:,} nodes")
    for one, other in pairs:
        a, b = one.median("ours"), other.median("ours")
        table.add_row(TITLES[one.workload], "-" if b is None else f"{b:.3f}", _ratio(b, a))
    console.print(table)


def as_data(found: Sequence[Measurement], versions: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return every run as plain data, for a JSON file."""
    return json.loads(json.dumps({"versions": versions, "measurements": [asdict(each) for each in found]}))


def _cell(mine: float | None, measurement: Measurement, name: str) -> str:
    """Return our seconds over those of a side, or over the limit that it exceeded."""
    if name in measurement.limits and mine is not None:
        return f"< {mine / measurement.limits[name]:.3f}"
    return _ratio(mine, measurement.median(name))


def _ratio(a: float | None, b: float | None) -> str:
    return "-" if a is None or not b else f"{a / b:.2f}"

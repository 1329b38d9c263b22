"""Time the overhead of the pass framework: matching over graph size, and running and verifying passes.

Run as ``python -m graphpress.tools.bench.framework.overhead``. The first table applies the standard rules to graphs of
several sizes that they do not change; a test counts the visits as well. It is measured first, because the second table
fragments the heap, which slows memory reads down. The second table runs the pipelines of `prepare` and `finalize` for
ResNet-50 with the default quantization, on one thread, in wall-clock seconds. "passes" is the time in `Pass.run`;
"overhead" is the rest of a run, mostly verification, relative to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import click
import torch
from attrs import frozen
from rich.console import Console
from rich.table import Table

from graphpress.ir import from_module
from graphpress.ir.graph import Graph
from graphpress.passes.framework import Pipeline, Runner, RunResult
from graphpress.quantization import Quantizer
from graphpress.tools.models import MODELS
from graphpress.tools.passctl.scaling import side_by_side

SIZES = (4_000, 20_000)
RULES = "canonicalize,annotate-fusion"


@frozen
class Run:
    """One run of a pipeline: seconds per pass by address, and total seconds."""

    steps: tuple[str, ...]
    passes: float
    total: float


@click.command()
@click.option("--model", default="resnet50", show_default=True, type=click.Choice(sorted(MODELS)), help="To quantize.")
@click.option(
    "--repeats",
    default=7,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of runs; the median is reported.",
)
def main(model: str, repeats: int) -> None:
    """Print matching time over graph size, and the overhead of running and verifying."""
    torch.set_num_threads(1)
    console = Console()
    table = Table("graph", *(f"{size:,} nodes" for size in SIZES), "ratio", title=f"Matching: {RULES}")
    for name in ("small_resnet", "small_transformer"):
        small, large = matching(name, SIZES, repeats)
        table.add_row(name, f"{small:.4f} s", f"{large:.4f} s", f"{large / small:.2f}x")
    console.print(table)
    lives = [life(model) for _ in range(repeats + 1)][1:]  # the first run compiles, imports and fills caches
    table = Table("pipeline", "passes", "run and verify", "overhead", title=f"Running and verifying: {model}")
    for number, run in enumerate(lives[0]):
        _add(table, f"{run.steps[0]} ... {run.steps[-1]}", [each[number : number + 1] for each in lives])
    _add(table, "all", lives)
    console.print(table)


def life(name: str) -> list[Run]:
    """Return the pipelines of a model's default quantization, in order."""
    entry = MODELS[name]
    inputs = entry.example_inputs()
    with recorded() as runs:
        quantizer = Quantizer(entry.build())
        prepared = quantizer.prepare(inputs)
        with quantizer.calibration_mode():
            prepared(*inputs)
        quantizer.finalize()
    return runs


@contextmanager
def recorded() -> Iterator[list[Run]]:
    """Time every pipeline run in the body."""
    runs: list[Run] = []
    plain = Runner.run

    def timed(self: Runner, graph: Graph, pipeline: Pipeline, in_place: bool = False) -> RunResult:
        start = perf_counter()
        result = plain(self, graph, pipeline, in_place)
        total = perf_counter() - start
        runs.append(Run(tuple(step.pass_.name for step in pipeline), result.seconds, total))
        return result

    Runner.run = timed  # type: ignore[method-assign]
    try:
        yield runs
    finally:
        Runner.run = plain  # type: ignore[method-assign]


def matching(name: str, sizes: Sequence[int], repeats: int) -> list[float]:
    """Return the seconds in which the standard rules find no match in copies of a model, per minimum node count.

    The sizes alternate, so that each starts with the caches full of another graph.
    """
    entry, pipeline = MODELS[name], Pipeline.parse(RULES)
    graph = from_module(entry.build(), entry.example_inputs())
    copies = [side_by_side(graph, -(-size // len(graph.nodes))) for size in sizes]
    runner = Runner(verify=False)
    settled = [runner.run(large, pipeline).graph for large in copies]
    turns = [[runner.run(large, pipeline, in_place=True).seconds for large in settled] for _ in range(repeats)]
    return [median(seconds) for seconds in zip(*turns, strict=True)]


def _add(table: Table, title: str, lives: list[list[Run]]) -> None:
    passes = [sum(run.passes for run in life) for life in lives]
    totals = [sum(run.total for run in life) for life in lives]
    overhead = median((total - inside) / inside for total, inside in zip(totals, passes, strict=True))
    table.add_row(title, f"{median(passes):.4f} s", f"{median(totals):.4f} s", f"{overhead:.0%}")


if __name__ == "__main__":
    main()

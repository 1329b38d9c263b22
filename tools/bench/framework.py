"""Time what the pass framework itself costs: matching as graphs grow, and running and verifying beside the passes.

Run as ``python -m graphpress.tools.bench.framework``. The first table is the standard rules on graphs that none of them
changes, by size; the visits are counted in a test as well. It comes first because a visit costs less than what it reads
from memory, and the runs of the second table leave the heap full of holes. That one is the life of ResNet-50 under the
default quantization: the pipelines that `prepare` and `finalize` run, on one thread, in wall-clock seconds. "passes" is
what `Pass.run` takes; "overhead" is all else of a run, the verification of every step's result first of all, over that.
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
    """One run of a pipeline: its passes by address, seconds of the passes and of everything."""

    steps: tuple[str, ...]
    passes: float
    total: float


@click.command()
@click.option("--model", default="resnet50", show_default=True, type=click.Choice(sorted(MODELS)), help="To quantize.")
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(min=1), help="Runs; the median counts.")
def main(model: str, repeats: int) -> None:
    """Print how matching grows with the graph, and what running and verifying cost beside the passes."""
    torch.set_num_threads(1)
    console = Console()
    table = Table("graph", *(f"{size:,} nodes" for size in SIZES), "ratio", title=f"Matching: {RULES}")
    for name in ("small_resnet", "small_transformer"):
        small, large = matching(name, SIZES, repeats)
        table.add_row(name, f"{small:.4f} s", f"{large:.4f} s", f"{large / small:.2f}x")
    console.print(table)
    lives = [life(model) for _ in range(repeats + 1)][1:]  # the first compiles, imports and fills caches
    table = Table("pipeline", "passes", "run and verify", "overhead", title=f"Running and verifying: {model}")
    for number, run in enumerate(lives[0]):
        _add(table, f"{run.steps[0]} ... {run.steps[-1]}", [each[number : number + 1] for each in lives])
    _add(table, "all", lives)
    console.print(table)


def life(name: str) -> list[Run]:
    """Return the pipelines that the default quantization of a model runs, first to last."""
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
    """Time every run of a pipeline inside."""
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
    """Return the seconds the standard rules take to find nothing more in copies of a model, so many nodes at least.

    The sizes take turns, so that each finds the processor's caches full of another graph.
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

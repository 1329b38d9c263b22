"""Benchmark the framework beside others: `python -m graphpress.tools.bench.framework`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import write_file
from graphpress.tools.bench.framework.suite import (
    LARGE,
    LIMIT,
    NODES,
    PYTHON,
    as_data,
    measure,
    measure_growth,
    others,
    ours,
    print_growth,
    print_ratios,
)
from graphpress.tools.bench.framework.workloads import TITLES


@click.command()
@click.option(
    "--workload", "workloads", multiple=True, type=click.Choice(list(TITLES)), help="Repeatable; default all."
)
@click.option("--nodes", default=NODES, show_default=True, type=click.IntRange(min=60), help="Size of the graphs.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(min=1), help="Runs per side.")
@click.option(
    "--limit", default=LIMIT, show_default=True, type=click.FloatRange(min=0.1), help="CPU seconds of one call."
)
@click.option("--alone", is_flag=True, help="Measure our side only.")
@click.option("--growth", is_flag=True, help=f"Also measure our side at {LARGE:,} nodes.")
@click.option("--python", type=click.Path(path_type=Path), default=PYTHON, help="The others' interpreter.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write every run to this file.")
def main(
    workloads: tuple[str, ...],
    nodes: int,
    repeats: int,
    limit: float,
    alone: bool,
    growth: bool,
    python: Path,
    json_file: Path | None,
) -> None:
    """Time the same work in graphpress, xDSL, onnx-ir, torch.fx and TVM, in turns, and print ratios."""
    console, progress = Console(), Console(stderr=True)

    def say(message: str) -> None:
        progress.print(f"[dim]{message}", highlight=False)

    try:
        with ExitStack() as stack:
            sides = [ours()] if alone else [ours(), *stack.enter_context(others(python))]
            chosen = workloads or tuple(TITLES)
            found, versions = measure(sides, chosen, nodes, repeats, say, limit)
            print_ratios(console, found, versions)
            results = as_data(found, versions)
            if growth:
                pairs = measure_growth(chosen, nodes, LARGE, repeats, say, 10 * limit)
                print_growth(console, pairs)
                results["growth"] = as_data([each for pair in pairs for each in pair], versions)["measurements"]
    except GraphpressError as error:
        raise click.ClickException(str(error)) from error
    if json_file is not None:
        write_file(json_file, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

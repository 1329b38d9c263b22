"""Benchmark graphpress and its peer: `python -m graphpress.tools.bench [SUITE]...`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import write_file
from graphpress.tools.bench import benchmarks
from graphpress.tools.bench.accuracy import edsr_psnr
from graphpress.tools.bench.framework import suite as framework_suite
from graphpress.tools.bench.report import as_data, print_accuracy, print_comparison
from graphpress.tools.bench.sides import PEER_PYTHON, Benchmark, compare, ours, peer
from graphpress.tools.models import MODELS

SUITES = ("quantization", "eager", "training", "palettization", "growth", "edsr")
FRAMEWORK = "framework"
"""A suite with an environment of its own, run only when it is named."""
LANGUAGE = "language"
"""A suite that runs in the environments of the zoo, only when it is named."""
MODEL_NAMES = sorted({*MODELS, "edsr", *benchmarks.LANGUAGE_MODELS})


@click.command()
@click.argument("suites", nargs=-1, type=click.Choice((*SUITES, LANGUAGE, FRAMEWORK)), metavar="[SUITE]...")
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(MODEL_NAMES),
    help="Models to use instead of the suite's own; repeatable.",
)
@click.option("--blocks", multiple=True, type=click.IntRange(min=1), help="Chain lengths of the growth suite.")
@click.option(
    "--setting",
    "settings",
    multiple=True,
    type=click.Choice(list(benchmarks.PALETTE_SETTINGS)),
    help="Settings of the palettization suite to use instead of all; repeatable.",
)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(min=1), help="Runs per side.")
@click.option(
    "--side",
    "only",
    type=click.Choice(["ours", "peer", "both"]),
    default="both",
    show_default=True,
    help="Packages to measure.",
)
@click.option("--peer-growth", is_flag=True, help="Run the growth suite on the peer too, which takes minutes per run.")
@click.option("--peer-python", type=click.Path(path_type=Path), default=PEER_PYTHON, help="The peer's interpreter.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write every run to this file.")
def main(
    suites: tuple[str, ...],
    models: tuple[str, ...],
    blocks: tuple[int, ...],
    settings: tuple[str, ...],
    repeats: int,
    only: str,
    peer_growth: bool,
    peer_python: Path,
    json_file: Path | None,
) -> None:
    """Benchmark graphpress and its peer in alternating fresh processes, and print ratios.

    SUITE is any of quantization, eager, training, palettization, growth, edsr; none means all of these. The suite
    framework compares the pass framework with other compilers'. The suite language prepares models of the zoo, and is
    run by the Python of an environment that has transformers. Times are medians on one thread.
    """
    console, progress = Console(), Console(stderr=True)
    results: dict[str, Any] = {"machine": _machine(), "comparisons": []}

    def say(message: str) -> None:
        progress.print(f"[dim]{message}", highlight=False)

    try:
        with ExitStack() as stack:
            sides = []
            if FRAMEWORK in suites:
                results[FRAMEWORK] = _framework(stack, console, only, repeats, say)
                suites = tuple(suite for suite in suites if suite != FRAMEWORK)
                if not suites:
                    return _written(results, json_file)
            if only != "peer":
                sides.append(ours())
            if only != "ours":
                sides.append(stack.enter_context(peer(peer_python)))
            for suite in suites or SUITES:
                if suite == "edsr":
                    results["edsr"] = edsr_psnr(sides, say)
                    print_accuracy(console, results["edsr"])
                    continue
                chosen = sides
                if suite == "growth" and not peer_growth:
                    chosen = [side for side in sides if side.name == "ours"]
                for benchmark in _benchmarks(suite, models, blocks, settings):
                    comparison = compare(benchmark, chosen, repeats, say) if chosen else None
                    if comparison is not None:
                        print_comparison(console, comparison)
                        results["comparisons"].append(as_data(comparison))
    except GraphpressError as error:
        raise click.ClickException(str(error)) from error
    _written(results, json_file)


def _written(results: dict[str, Any], json_file: Path | None) -> None:
    if json_file is not None:
        write_file(json_file, json.dumps(results, indent=2) + "\n")


def _framework(
    stack: ExitStack, console: Console, only: str, repeats: int, say: Callable[[str], None]
) -> dict[str, Any]:
    sides = [] if only == "peer" else [framework_suite.ours()]
    if only != "ours":
        sides += stack.enter_context(framework_suite.others())
    found, versions = framework_suite.measure(sides, repeats=repeats, progress=say)
    framework_suite.print_ratios(console, found, versions)
    return framework_suite.as_data(found, versions)


def _benchmarks(
    suite: str, models: tuple[str, ...], blocks: tuple[int, ...], settings: tuple[str, ...]
) -> list[Benchmark]:
    if suite == "quantization":
        return benchmarks.quantization(models or benchmarks.QUANTIZED_MODELS)
    if suite == LANGUAGE:
        return benchmarks.language(models or benchmarks.LANGUAGE_MODELS)
    if suite == "eager":
        return benchmarks.eager(models or benchmarks.QUANTIZED_MODELS)
    if suite == "training":
        return benchmarks.training(models or benchmarks.TRAINED_MODELS)
    if suite == "palettization":
        return benchmarks.palettization(models, settings)
    return benchmarks.growth(blocks or benchmarks.CHAIN_BLOCKS)


def _machine() -> dict[str, Any]:
    return {"platform": platform.platform(), "cores": os.cpu_count(), "torch": torch.__version__}


if __name__ == "__main__":
    main()

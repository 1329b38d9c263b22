"""Time conversion through us beside the converter alone: `python -m graphpress.tools.bench.conversion`.

Both take the same exported program: float, and finalized with 4-bit tables for Core AI. "Alone" is decomposition, the
converter and its saving, as its own documentation runs it; ours also checks, packs, replaces in one step and reads
back. Runs take turns in one process on one thread, and ratios are medians over turns. coremltools knows tables only
through our lowerings, so compressed programs are measured against it by the parts that `convert` reports: all of it
over the converter and the saving.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import click
import torch
from rich.console import Console
from rich.table import Table
from torch.export import ExportedProgram

from graphpress.backends import coreai, coreml, exporting
from graphpress.backends.coreai import ops
from graphpress.backends.coreml.dependency import quiet
from graphpress.backends.coreml.dependency import require as require_coremltools
from graphpress.palettization import KMeansPalettizer
from graphpress.tools.models import MODELS

T = TypeVar("T")
OWN_PARTS = ("convert", "save")


@click.command()
@click.option("--model", default="resnet50", show_default=True, type=click.Choice(sorted(MODELS)), help="To convert.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Turns; the median counts.")
def main(model: str, repeats: int) -> None:
    """Print seconds of the converters alone and through us, the ratio, and where our seconds go."""
    torch.set_num_threads(1)
    entry = MODELS[model]
    inputs = entry.example_inputs()
    plain = entry.build()
    palettizer = KMeansPalettizer(plain)
    palettizer.prepare(inputs)
    compressed = palettizer.finalize()
    ops.register()
    with torch.no_grad():
        programs = {
            "float": torch.export.export(plain, inputs),
            "4-bit tables": torch.export.export(compressed, inputs),
        }
    table = Table("converter, program", "alone", "through us", "ratio", "parts of ours", title=f"Conversion of {model}")
    for name, program in programs.items():
        table.add_row(f"Core AI, {name}", *turns(program, coreai_alone, coreai.convert, ".aimodel", repeats))
        alone = coreml_alone if name == "float" else None
        table.add_row(f"Core ML, {name}", *turns(program, alone, coreml.convert, ".mlpackage", repeats))
    Console(width=150).print(table)


def turns(
    program: ExportedProgram,
    alone: Callable[[ExportedProgram, Path], object] | None,
    through_us: Callable[..., coreai.AssetInfo | coreml.PackageInfo],
    suffix: str,
    repeats: int,
) -> list[str]:
    """The cells of one row: median seconds of both, the median ratio, and our parts."""
    theirs, ours, parts = [], [], []
    with tempfile.TemporaryDirectory(prefix="graphpress-bench-") as folder:
        path = Path(folder) / f"model{suffix}"
        for turn in range(repeats + 1):
            first = None if alone is None else seconds(alone, program, path)[0]
            second, info = seconds(through_us, program, path)
            if turn == 0:
                continue  # imports and caches
            parts.append(info.seconds)
            theirs.append(sum(info.seconds[part] for part in OWN_PARTS) if first is None else first)
            ours.append(second if first is not None else sum(info.seconds.values()))
    ratio = median(b / a for a, b in zip(theirs, ours, strict=True))
    split = ", ".join(f"{part} {median(each[part] for each in parts):.2f}" for part in parts[0])
    return [f"{median(theirs):.2f} s", f"{median(ours):.2f} s", f"{ratio:.2f}x", split]


def seconds(run: Callable[[ExportedProgram, Path], T], program: ExportedProgram, path: Path) -> tuple[float, T]:
    """Processor seconds of a conversion, and what it returns; what it saved is deleted."""
    gc.collect()
    start = time.process_time()
    result = run(program, path)
    spent = time.process_time() - start
    shutil.rmtree(path)
    return spent, result


def coreai_alone(program: ExportedProgram, path: Path) -> None:
    """The stock converter, as its documentation runs it."""
    package = ops.require("coreai_torch")
    decomposed = program.run_decompositions(package.get_decomp_table())
    package.TorchConverter().add_exported_program(decomposed).to_coreai().save_asset(path)


def coreml_alone(program: ExportedProgram, path: Path) -> None:
    """The stock converter on a program of ATen ops, in the same precision and for the same target."""
    coremltools = require_coremltools()
    with quiet(), exporting.quiet():
        model = coremltools.convert(
            program.run_decompositions({}),
            minimum_deployment_target=coremltools.target.iOS18,
            compute_precision=coremltools.precision.FLOAT32,
            convert_to="mlprogram",
            skip_model_load=True,
        )
        model.save(str(path))


if __name__ == "__main__":
    main()

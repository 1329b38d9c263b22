"""Time conversion through graphpress relative to the bare converter: `python -m graphpress.tools.bench.conversion`.

Both convert the same exported program: float, and finalized with 4-bit lookup tables for Core AI. The bare conversion
is decomposition, conversion and saving, as in the converter's documentation; ours also checks, packs, replaces the file
atomically and reads it back. Runs alternate in one process on one thread; ratios are medians. coremltools supports
lookup tables only through our lowerings, so for compressed programs the stages that `convert` reports are compared: all
of them over converter and saving.
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
@click.option(
    "--repeats",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of turns; the median is reported.",
)
def main(model: str, repeats: int) -> None:
    """Print seconds of the bare converters and through graphpress, the ratio, and the seconds per stage."""
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
    """Return the cells of one row: median seconds of both, the median ratio, and our stages."""
    theirs, ours, parts = [], [], []
    with tempfile.TemporaryDirectory(prefix="graphpress-bench-") as folder:
        path = Path(folder) / f"model{suffix}"
        for turn in range(repeats + 1):
            first = None if alone is None else seconds(alone, program, path)[0]
            second, info = seconds(through_us, program, path)
            if turn == 0:
                continue  # the first turn imports and fills caches
            parts.append(info.seconds)
            theirs.append(sum(info.seconds[part] for part in OWN_PARTS) if first is None else first)
            ours.append(second if first is not None else sum(info.seconds.values()))
    ratio = median(b / a for a, b in zip(theirs, ours, strict=True))
    split = ", ".join(f"{part} {median(each[part] for each in parts):.2f}" for part in parts[0])
    return [f"{median(theirs):.2f} s", f"{median(ours):.2f} s", f"{ratio:.2f}x", split]


def seconds(run: Callable[[ExportedProgram, Path], T], program: ExportedProgram, path: Path) -> tuple[float, T]:
    """Return the CPU seconds and the result of a conversion; the saved file is deleted."""
    gc.collect()
    start = time.process_time()
    result = run(program, path)
    spent = time.process_time() - start
    shutil.rmtree(path)
    return spent, result


def coreai_alone(program: ExportedProgram, path: Path) -> None:
    """Run the stock converter as in its documentation."""
    package = ops.require("coreai_torch")
    decomposed = program.run_decompositions(package.get_decomp_table())
    package.TorchConverter().add_exported_program(decomposed).to_coreai().save_asset(path)


def coreml_alone(program: ExportedProgram, path: Path) -> None:
    """Run the stock converter on a program of ATen ops, with the same precision and target."""
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

"""Compress the trained EDSR in two ways and print the results: ``python -m graphpress.tools.demo --out FOLDER``."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from graphpress.tools.demo.measuring import Result, measure
from graphpress.tools.demo.report import (
    HEADINGS,
    PACKAGE_HEADINGS,
    package_rows,
    table_rows,
    write_page,
    write_report,
    write_strip,
)
from graphpress.tools.demo.rows import ROWS
from graphpress.tools.edsr import load_trained
from graphpress.tools.edsr.images import bicubic_upscale, calibration_images, evaluation_pairs, psnr


def main() -> None:
    """Run the rows, print the table, and write the files."""
    parser = argparse.ArgumentParser(prog="python -m graphpress.tools.demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder for the files (default: %(default)s)"
    )
    parser.add_argument("--calibration-images", type=partial(_whole, minimum=1), default=20, metavar="N")
    parser.add_argument(
        "--largest",
        type=partial(_whole, minimum=32),
        default=160,
        metavar="PIXELS",
        help="of an evaluation input's side",
    )
    options = parser.parse_args()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.out):
            pass
    except OSError as error:
        parser.error(f"cannot write to the folder {options.out}: {error.strerror}")
    torch.manual_seed(0)

    console = Console()
    pairs = evaluation_pairs(options.largest)
    calibration = calibration_images(options.calibration_images)
    upscaled = {name: bicubic_upscale(low) for name, low, _ in pairs}
    bicubic = {name: psnr(upscaled[name], high) for name, _, high in pairs}
    model = load_trained()
    results: list[Result] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for row in ROWS:
            task = progress.add_task(row.name, total=None)
            show_stage = partial(_show_stage, progress, task, row.name)
            results.append(measure(row, model, calibration, pairs, options.out, show_stage))
            progress.update(task, description=f"{row.name}: done", total=1, completed=1)
        task = progress.add_task("page of the joint pipeline", total=None)
        page = options.out / "joint-pipeline.html"
        write_page(page, model, calibration[0])
        progress.update(task, total=1, completed=1)

    table = Table(*HEADINGS, title="EDSR 2x on held-out photographs")
    for cells in table_rows(results, bicubic):
        table.add_row(*cells)
    console.print(table)
    packages = Table(*PACKAGE_HEADINGS, title="The same as packages of Core ML")
    for cells in package_rows(results):
        packages.add_row(*cells)
    console.print(packages)
    name = pairs[0][0]
    strip, report = options.out / "strip.png", options.out / "report.md"
    write_strip(strip, pairs[0], {"bicubic": upscaled[name], **{r.row.name: r.images[name] for r in results}})
    write_report(report, results, bicubic, strip, page)
    files = [*(p for result in results for p in (result.path, result.package.path)), strip, page, report]
    console.print("Left behind: " + ", ".join(str(path) for path in files))


def _whole(text: str, minimum: int) -> int:
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")
    return int(text)


def _show_stage(progress: Progress, task: TaskID, row: str, stage: str) -> None:
    progress.update(task, description=f"{row}: {stage}")


if __name__ == "__main__":
    main()

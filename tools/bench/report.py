"""Benchmark results as terminal tables and plain data."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from graphpress.tools.bench.accuracy import ROWS
from graphpress.tools.bench.sides import Comparison, Measured


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print medians per side, the peer's over ours, and the benchmark's own ratios."""
    sides = comparison.sides
    table = Table(title=f"{comparison.benchmark.title} (seconds: CPU / wall)", title_justify="left")
    table.add_column("")
    for side in sides:
        table.add_column(side, justify="right")
    if len(sides) == 2:
        table.add_column(f"{sides[1]} / {sides[0]}", justify="right")

    for measured in comparison.names("cpu"):
        cpu = [comparison.median("cpu", side, measured) for side in sides]
        wall = [comparison.median("wall", side, measured) for side in sides]
        cells = ["-" if a is None or b is None else f"{a:.4g} / {b:.4g}" for a, b in zip(cpu, wall, strict=True)]
        table.add_row(_title(measured), *cells, *_quotient(cpu))
    table.add_section()
    for numerator, denominator in comparison.benchmark.ratios:
        values = [comparison.ratio(side, numerator, denominator) for side in sides]
        table.add_row(f"{_title(numerator)} / {denominator[1]}", *(_times(value) for value in values))
    table.add_section()
    for measured in comparison.names("facts"):
        facts = [comparison.median("facts", side, measured) for side in sides]
        table.add_row(_title(measured), *map(_digits, facts), *_quotient(facts, 5))
    _add_weights(table, comparison)
    console.print(table)
    for side, errors in comparison.errors.items():
        for label, error in errors.items():
            console.print(f"[red]{side}, {label}: {error}", highlight=False)


def _add_weights(table: Table, comparison: Comparison) -> None:
    """Add the number of compressed weights per side, and the errors of the shared ones: total, number worse, worst."""
    sides, shared = comparison.sides, comparison.shared_weights()
    if not shared:
        return
    table.add_row("weights compressed", *(str(len(comparison.weights[side])) for side in sides))
    errors = [comparison.weight_error(side, shared) for side in sides]
    table.add_row(f"squared error / squares, {len(shared)} weights", *map(_digits, errors), *_quotient(errors, 6))
    if len(sides) == 2:
        above = sum(_worse(comparison, name) < 1 for name in shared)
        table.add_row(f"weights above {sides[1]}", str(above))
        least, name = min((_worse(comparison, name), name) for name in shared)
        each = [comparison.weight_error(side, [name]) for side in sides]
        table.add_row(f"the least {sides[1]} / {sides[0]}, {name}", *map(_digits, each), _times(least, 6))


def _worse(comparison: Comparison, name: str) -> float:
    """Return the ratio of the second side's error of a weight to the first's; infinite if the first is zero."""
    first, second = (comparison.weights[side][name][0] for side in comparison.sides)
    return second / first if first else float("inf")


def print_accuracy(console: Console, results: dict[str, dict[str, float | str]]) -> None:
    """Print PSNR by row and side, with the loss relative to the same side's FP32."""
    sides = list(next(iter(results.values())))
    table = Table(title="EDSR x2, mean PSNR in dB on held-out photographs", title_justify="left")
    table.add_column("")
    for side in sides:
        table.add_column(side, justify="right")
    for row, by_side in results.items():
        cells = []
        for side in sides:
            value, reference = by_side[side], results["fp32"][side]
            if isinstance(value, str):
                cells.append(f"[red]{value}")
            elif row == "fp32" or isinstance(reference, str):
                cells.append(f"{value:.3f}")
            else:
                cells.append(f"{value:.3f} ({value - reference:+.3f})")
        table.add_row(ROWS[row], *cells)
    console.print(table)


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return every run of a comparison as plain data, for a JSON file."""
    return {
        "title": comparison.benchmark.title,
        "sides": {
            side: {
                clock: {
                    _title(measured): values for measured, values in getattr(comparison, clock).get(side, {}).items()
                }
                for clock in ("cpu", "wall", "facts")
            }
            | {"errors": comparison.errors.get(side, {}), "weights": comparison.weights.get(side, {})}
            for side in comparison.sides
        },
    }


def _title(measured: Measured) -> str:
    label, name = measured
    return f"{name}, {label}"


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.7g}"


def _quotient(values: list[float | None], digits: int = 2) -> list[str]:
    if len(values) != 2:
        return []
    first, second = values
    return [_times(second / first if first and second else None, digits)]


def _times(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}x"

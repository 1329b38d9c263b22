"""The trade-off between size and quality: recipes at several budgets, and their plot."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from attrs import frozen

from graphpress.ir.files import path_of, write_file
from graphpress.search.metrics import SearchError
from graphpress.search.recipes import Recipe, exact_recipe
from graphpress.search.sensitivities import Sensitivities

_INK, _FAINT = "#333333", "#dddddd"
_COLOURS = ("#0b6e99", "#d1495b", "#4d8b31", "#8e5ea2", "#b07d12")
_MARKS = ("o", "s", "^", "D", "v")
_LINES = ("-", "--", ":", "-.")


@frozen
class Point:
    """The size and quality of a compressed model.

    Attributes:
        bits_per_weight: stored bits divided by the number of weights.
        quality: a measure of quality.
        label: the label in the plot.
    """

    bits_per_weight: float
    quality: float
    label: str = ""


def trade_off(
    sensitivities: Sensitivities,
    budgets: Iterable[float],
    evaluate: Callable[[Recipe], float],
    recipe: Callable[..., Recipe] = exact_recipe,
) -> list[Point]:
    """Evaluate a recipe for each budget; budgets with the same recipe are one point.

    Args:
        sensitivities: complete sensitivities.
        budgets: budgets in bits per weight.
        evaluate: returns the quality of a recipe.
        recipe: `exact_recipe` or `greedy_recipe`.

    Raises:
        SearchError: if a budget cannot be met.
    """
    points: dict[tuple[str | None, ...], Point] = {}
    for budget in budgets:
        found = recipe(sensitivities, bits_per_weight=budget)
        key = tuple(found.choices.values())
        if key not in points:
            points[key] = Point(found.bits_per_weight, evaluate(found))
    return sorted(points.values(), key=lambda point: point.bits_per_weight)


def plot_trade_off(
    path: str | PathLike[str],
    curves: Mapping[str, Sequence[Point]],
    single: Mapping[str, Sequence[Point]] | None = None,
    float_quality: float | None = None,
    quality: str = "quality",
    title: str = "",
) -> None:
    """Plot quality over bits per weight and save the plot as PNG or SVG.

    Args:
        path: the file, ending in ``.png`` or ``.svg``.
        curves: points joined by lines, by label.
        single: points without lines, such as uniform compression, by label.
        float_quality: quality of the float model, drawn as a horizontal line.
        quality: label of the vertical axis, with its unit.
        title: title of the plot.

    Raises:
        SearchError: if matplotlib is not installed, the suffix is not supported, or there are no points.
        FileError: if the file cannot be written.
    """
    target = path_of(path)
    kind = target.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise SearchError(f"{str(path)!r} must end in .png or .svg")
    groups = [*curves.items(), *(single or {}).items()]
    if not any(points for _, points in groups):
        raise SearchError("there are no points to draw")
    figure, axes = _empty_figure()
    for at, (name, points) in enumerate(groups):
        across, up = [point.bits_per_weight for point in points], [point.quality for point in points]
        line = _LINES[at % len(_LINES)] if name in curves else "none"
        style = {"color": _COLOURS[at % len(_COLOURS)], "marker": _MARKS[at % len(_MARKS)], "label": name}
        # The first curve is drawn above the others.
        size = 4.5 if name in curves else 7
        axes.plot(across, up, linestyle=line, linewidth=1.6, markersize=size, zorder=3 - at / len(groups), **style)
        for point in points:
            axes.annotate(
                point.label,
                (point.bits_per_weight, point.quality),
                xytext=(7, -11),
                textcoords="offset points",
                color=style["color"],
                fontsize=9,
            )
    if float_quality is not None:
        axes.axhline(float_quality, color=_INK, linewidth=1, linestyle=(0, (4, 3)), label="uncompressed", zorder=1)
    axes.margins(y=0.1)
    axes.set_xlabel("bits per weight, tables and scales included", color=_INK)
    axes.set_ylabel(quality, color=_INK)
    axes.set_title(title, color=_INK, fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    data = io.BytesIO()
    figure.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    write_file(target, data.getvalue())


def _empty_figure() -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SearchError("drawing needs matplotlib: pip install 'graphpress[plot]'") from error
    matplotlib.rcParams["svg.hashsalt"] = "graphpress"  # deterministic output
    figure = Figure(figsize=(7, 4.2), facecolor="white", layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_facecolor("white")
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    return figure, axes

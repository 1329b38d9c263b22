"""Mixed-precision palettization of EDSR: ``python -m graphpress.tools.bench.mixed_precision --out FOLDER``.

Writes the measurements (`sensitivities.json`, from which a second run continues), the recipe at 4 bits per weight
(`recipe.yaml`) and the trade-off plot, and prints the table in the documentation. Recipes are chosen by outputs on
crops of training photographs, and evaluated by PSNR on held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click
import torch
from rich.console import Console
from torch import nn

from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.search import (
    Compression,
    OutputMetric,
    Point,
    Recipe,
    Sensitivities,
    against,
    exact_recipe,
    greedy_recipe,
    measure_sensitivities,
    plot_trade_off,
    trade_off,
    uniform_recipe,
    verify_recipe,
)
from graphpress.tools.bench.accuracy import edsr_psnr
from graphpress.tools.bench.sides import peer
from graphpress.tools.edsr import load_trained
from graphpress.tools.edsr.images import calibration_images, evaluation_pairs, psnr

WIDTHS = (1, 2, 3, 4, 6, 8)
UNIFORM = (3, 4, 6)
BUDGETS = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
TARGET = 4.0


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
@click.option(
    "--crops",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of crops for measuring sensitivities.",
)
@click.option(
    "--size", default=64, show_default=True, type=click.IntRange(min=8), help="Side length of a crop in pixels."
)
@click.option(
    "--largest",
    default=160,
    show_default=True,
    type=click.IntRange(min=16),
    help="Maximum side length of held-out images in pixels.",
)
@click.option("--budget", "budgets", multiple=True, type=float, default=BUDGETS, show_default=True)
@click.option(
    "--width", "widths", multiple=True, type=int, default=WIDTHS, show_default=True, help="Candidate bit widths."
)
@click.option("--with-peer", is_flag=True, help="Measure the peer at a uniform 4 bits too, in its own environment.")
def main(
    out: Path,
    crops: int,
    size: int,
    largest: int,
    budgets: tuple[float, ...],
    widths: tuple[int, ...],
    with_peer: bool,
) -> None:
    """Run the whole study."""
    out.mkdir(parents=True, exist_ok=True)
    console, progress = Console(), Console(stderr=True)
    model = load_trained()
    images = calibration_images(crops, size=size)
    compression, metric = Compression(compressor=KMeansPalettizer, example_inputs=(images[0],)), against(model, images)
    sensitivities = measured(model, compression, metric, widths, out / "sensitivities.json")
    progress.print(f"{len(sensitivities.layers)} layers, {sensitivities.weights} weights measured")

    judge = held_out(largest)
    judged = remembered(lambda recipe: judge(palettized(model, recipe.config, images[0])))
    curves = {
        "exact": trade_off(sensitivities, budgets, judged, exact_recipe),
        "greedy": trade_off(sensitivities, budgets, judged, greedy_recipe),
    }
    whole = judge(model)
    console.print(f"| float | | {whole:.2f} | |")
    uniform = []
    for width in sorted(set(UNIFORM) & set(widths)):
        recipe = uniform_recipe(sensitivities, f"{width} bits")
        uniform.append(Point(recipe.bits_per_weight, judged(recipe), f"{width} bits"))
        console.print(_row(f"{width} bits everywhere", uniform[-1], whole))
    for name, points in curves.items():
        for point in points:
            console.print(_row(name, point, whole))
    single = {"uniform": uniform}
    if with_peer:
        theirs = _peer_at_four_bits(progress.print)
        single["uniform, coreai-opt"] = [theirs]
        console.print(_row("4 bits everywhere, coreai-opt", theirs, whole))

    recipe = exact_recipe(sensitivities, bits_per_weight=TARGET)
    recipe.config.to_yaml(out / "recipe.yaml")
    console.print(f"recipe: {recipe}", f"verified: {verify_recipe(recipe, sensitivities, model, compression, metric)}")
    plot_trade_off(
        out / "mixed-precision.png",
        {"mixed, exact": curves["exact"], "mixed, greedy": curves["greedy"]},
        single,
        whole,
        "PSNR on held-out photographs, dB",
        "EDSR x2, palettized: mixed precision against uniform",
    )


def measured(
    model: nn.Module, compression: Compression, metric: OutputMetric, widths: Iterable[int], path: Path
) -> Sensitivities:
    """Measure every layer at every width, with one lookup table per tensor."""
    candidates = {
        f"{width} bits": ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=width)})
        for width in widths
    }
    return measure_sensitivities(model, compression, candidates, metric, path=path)


def palettized(model: nn.Module, config: KMeansPalettizerConfig, example: torch.Tensor) -> nn.Module:
    """Palettize the model by a recipe's config."""
    return KMeansPalettizer(model, config).prepare((example,)).eval()


def held_out(largest: int) -> Callable[[nn.Module], float]:
    """Return a function that computes the mean PSNR in dB over held-out photographs."""
    pairs = evaluation_pairs(largest)

    def judge(model: nn.Module) -> float:
        with torch.no_grad():
            return sum(psnr(model(low), high) for _, low, high in pairs) / len(pairs)

    return judge


def remembered(judge: Callable[[Recipe], float]) -> Callable[[Recipe], float]:
    """Cache the score of each recipe."""
    known: dict[tuple[str | None, ...], float] = {}

    def judged(recipe: Recipe) -> float:
        key = tuple(recipe.choices.values())
        if key not in known:
            known[key] = judge(recipe)
        return known[key]

    return judged


def _peer_at_four_bits(progress: Callable[[str], None]) -> Point:
    """Measure the peer with 4-bit lookup tables of the same size."""
    with peer() as side:
        score = edsr_psnr([side], progress, rows=("p4",))["p4"]["peer"]
    if isinstance(score, str):
        raise click.ClickException(f"the peer failed: {score}")
    weights = [parameter for parameter in load_trained().parameters() if parameter.ndim >= 2]
    tables = 32 * 16 * len(weights)
    return Point(4 + tables / sum(weight.numel() for weight in weights), score, "4 bits")


def _row(name: str, point: Point, whole: float) -> str:
    return f"| {name} | {point.bits_per_weight:.2f} | {point.quality:.2f} | {point.quality - whole:+.2f} |"


if __name__ == "__main__":
    main()

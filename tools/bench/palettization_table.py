"""Accuracy of palettization options on trained models: `python -m graphpress.tools.bench.palettization_table`.

No option uses labels or held-out images: gradients are those of losses whose targets are sampled from the float model's
predictions, so that their mean squares are the Fisher information, and tables are fine-tuned to the float model's
outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import torch
from attrs import frozen
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from graphpress.ir.errors import GraphpressError
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.quantization import QuantizationSpec
from graphpress.tools.bench.accuracy_table import SUBJECTS, Subject

SETTINGS: dict[str, dict[str, Any]] = {
    "4 bits": {"n_bits": 4},
    "3 bits": {"n_bits": 3},
    "3 bits, int8 table": {"n_bits": 3, "lut_qspec": QuantizationSpec()},
    "2 bits, groups of 8": {"n_bits": 2, "granularity": PerGroupedChannelGranularity(group_size=8)},
    "16 pairs": {"n_bits": 4, "cluster_dim": 2},
}
# Training steps: a step of EDSR takes a hundred times as long as one of the classifiers.
STEPS = {"edsr": 40, "conv_net": 200, "transformer": 200}


@frozen
class Option:
    """The options in addition to plain clustering.

    Attributes:
        spec: fields of the `PalettizationSpec`.
        measures: ``inputs`` or ``gradients`` to measure in a calibration, or empty.
        trains: whether to train the tables towards the outputs of the float model.
    """

    spec: dict[str, Any]
    measures: str | None = None
    trains: bool = False


_TABLES: dict[str, Any] = {"training_strategy_spec": {"type": "tables"}}
_BOTH: dict[str, Any] = {"training_strategy_spec": {"type": "tables", "assignments": "nearest"}}
OPTIONS: dict[str, Option] = {
    "plain": Option({}),
    "activation-aware": Option({"activation_aware": True}, "inputs"),
    "sensitive": Option({}, "gradients"),
    "tables trained": Option(_TABLES, trains=True),
    "activation-aware, tables trained": Option({**_TABLES, "activation_aware": True}, "inputs", trains=True),
    "sensitive, tables trained": Option(_TABLES, "gradients", trains=True),
    "sensitive, tables and weights trained": Option(_BOTH, "gradients", trains=True),
}


def palettized(model: nn.Module, batches: Sequence[Tensor], setting: str, option: str, steps: int) -> KMeansPalettizer:
    """Return a palettizer that has prepared `model`, and trained its tables if the option says so."""
    how = OPTIONS[option]
    spec = PalettizationSpec(**SETTINGS[setting], **how.spec)
    states = {"weight": spec, "in_proj_weight": spec}
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec=states))
    palettizer = KMeansPalettizer(model, config)
    prepared = palettizer.prepare((batches[0],), leave_indivisible=True)
    if how.measures == "inputs":
        with palettizer.calibration_mode(), torch.no_grad():
            for batch in batches:
                prepared(batch)
    elif how.measures == "gradients":
        _measure_gradients(palettizer, prepared, batches)
    if how.trains:
        _train(palettizer, prepared, model, batches, steps)
    return palettizer


def _measure_gradients(palettizer: KMeansPalettizer, prepared: nn.Module, batches: Sequence[Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    is_classifier = prepared(batches[0][:1]).ndim == 2
    loss_fn: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy if is_classifier else functional.mse_loss
    with palettizer.calibration_mode(loss_fn=loss_fn) as calibration:
        for batch in batches:
            for each in batch.split(1):  # yields the mean of squares, not the square of the mean
                output = prepared(each)
                calibration.step(output, _drawn(output.detach(), is_classifier, generator))


def _drawn(output: Tensor, is_classifier: bool, generator: torch.Generator) -> Tensor:
    """Sample a target from the model's own distribution: a class, or the output with noise."""
    if is_classifier:
        return torch.multinomial(output.softmax(1), 1, generator=generator)[:, 0]
    return output + torch.randn(output.shape, generator=generator)


def _train(
    palettizer: KMeansPalettizer, prepared: nn.Module, model: nn.Module, batches: Sequence[Tensor], steps: int
) -> None:
    """Train with Adam at a rate decaying from 1/100 of the tables' spread, with norms and dropout in eval mode."""
    tables = palettizer.table_parameters()
    floats = [p for name, p in prepared.named_parameters() if name.endswith("weight") and p.ndim > 1]
    groups = [{"params": [each], "lr": 1e-2 * max(float(each.detach().std()), 1e-1)} for each in tables]
    groups += [{"params": [each], "lr": 1e-3 * float(each.detach().std())} for each in floats]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    with torch.no_grad():
        targets = [model(batch) for batch in batches]
    with palettizer.training_mode():
        prepared.eval()
        for step in range(steps):
            batch, target = batches[step % len(batches)], targets[step % len(batches)]
            optimizer.zero_grad()
            functional.mse_loss(prepared(batch), target).backward()
            optimizer.step()
            schedule.step()
            palettizer.step()


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice([subject.name for subject in SUBJECTS]))
@click.option("--setting", "settings", multiple=True, type=click.Choice([*SETTINGS]), help="Only these; repeatable.")
@click.option("--option", "options", multiple=True, type=click.Choice([*OPTIONS]), help="Only these; repeatable.")
@click.option("--steps", type=click.IntRange(min=1), help=f"Of training tables.  [default: {STEPS}]")
def main(models: tuple[str, ...], settings: tuple[str, ...], options: tuple[str, ...], steps: int | None) -> None:
    """Print a Markdown table per model: settings, options, metrics, and seconds to compress."""
    torch.set_num_threads(1)
    out, progress = Console(soft_wrap=True, highlight=False), Console(stderr=True)
    for subject in SUBJECTS:
        if models and subject.name not in models:
            continue
        model, batches = subject.load()
        figures = " | ".join(subject.figures)
        out.print(f"\n### {subject.name}\n\n| setting | option | {figures} | seconds |", markup=False)
        out.print("|---" * (3 + len(subject.figures)) + "|", markup=False)
        _print_row(out, "float", "", subject.score(model, model), None)
        for setting in settings or SETTINGS:
            for option in options or OPTIONS:
                progress.print(f"[dim]{subject.name}: {setting}, {option}", highlight=False)
                _measure(out, progress, subject, model, batches, setting, option, steps or STEPS[subject.name])


def _measure(
    out: Console,
    progress: Console,
    subject: Subject,
    model: nn.Module,
    batches: Sequence[Tensor],
    setting: str,
    option: str,
    steps: int,
) -> None:
    start = time.perf_counter()
    try:
        palettizer = palettized(model, batches, setting, option, steps)
        finalized = palettizer.finalize()
    except GraphpressError as error:  # a setting that does not fit the model
        progress.print(f"[dim]{str(error).splitlines()[0]}", highlight=False)
        return
    seconds = time.perf_counter() - start
    _print_row(out, setting, option, subject.score(finalized, model), seconds)


def _print_row(out: Console, setting: str, option: str, figures: Sequence[float], seconds: float | None) -> None:
    cells = [setting, option, *(f"{figure:.2f}" for figure in figures)]
    out.print(f"| {' | '.join([*cells, '' if seconds is None else f'{seconds:.1f}'])} |", markup=False)


if __name__ == "__main__":
    main()

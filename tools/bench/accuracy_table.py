"""Accuracy of quantization options on trained models: `python -m graphpress.tools.bench.accuracy_table`.

Every row is a `Method`, every column a figure of a `Subject`; append to `METHODS` to add rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import torch
from attrs import evolve, frozen
from rich.console import Console
from torch import nn

from graphpress.quantization import Quantizer, QuantizerConfig
from graphpress.tools.digits import accuracy, digits, load_trained
from graphpress.tools.edsr import load_trained as load_edsr
from graphpress.tools.edsr.images import calibration_images, evaluation_pairs, psnr


@frozen
class Subject:
    """A trained model with calibration data and metrics.

    Attributes:
        name: the name on the command line.
        figures: the names of the results of `score`, in order.
        load: returns the model and its calibration batches.
        score: returns the metrics of a compressed model, given the float model.
    """

    name: str
    figures: tuple[str, ...]
    load: Callable[[], tuple[nn.Module, Sequence[torch.Tensor]]]
    score: Callable[[nn.Module, nn.Module], tuple[float, ...]]


@frozen
class Method:
    """One row: a setting such as ``W4A8``, an option, and the compression.

    Attributes:
        compress: returns the compressed model for a float model and calibration batches.
    """

    setting: str
    option: str
    compress: Callable[[nn.Module, Sequence[torch.Tensor]], nn.Module]


def _load_edsr() -> tuple[nn.Module, Sequence[torch.Tensor]]:
    return load_edsr(), calibration_images(20, 64)


def _score_edsr(model: nn.Module, _: nn.Module) -> tuple[float, ...]:
    pairs = evaluation_pairs(160)
    with torch.no_grad():
        return (sum(psnr(model(low), high) for _, low, high in pairs) / len(pairs),)


def _load_digits(name: str) -> tuple[nn.Module, Sequence[torch.Tensor]]:
    return load_trained(name), list(digits().train_images[:512].split(32))


def _score_digits(model: nn.Module, exact: nn.Module) -> tuple[float, ...]:
    data = digits()
    with torch.no_grad():
        wanted = exact(data.test_images)
        lost = (model(data.test_images) - wanted).square().sum()
    noise = float("inf") if not lost else float(10 * torch.log10(wanted.square().sum() / lost))
    return 100 * accuracy(model, data.test_images, data.test_labels), noise


SUBJECTS = (
    Subject("edsr", ("PSNR, dB",), _load_edsr, _score_edsr),
    Subject("conv_net", ("accuracy, %", "logits, dB"), lambda: _load_digits("conv_net"), _score_digits),
    Subject("transformer", ("accuracy, %", "logits, dB"), lambda: _load_digits("transformer"), _score_digits),
)

OPTIONS: dict[str, dict[str, Any]] = {
    "to nearest": {},
    "bias correction, analytic": {"bias_correction": "analytic"},
    "bias correction, empirical": {"bias_correction": "empirical"},
    "equalized layers": {"equalize_layers": True},
    "adaptive rounding": {"weight_rounding": "adaptive"},
    "GPTQ, not asymmetric": {"weight_rounding": {"type": "gptq", "asymmetric": False}},
    "GPTQ": {"weight_rounding": "gptq"},
    "GPTQ, activation order": {"weight_rounding": {"type": "gptq", "activation_order": True}},
    "GPTQ, bias correction": {"weight_rounding": "gptq", "bias_correction": "empirical"},
    "adaptive, bias correction": {"weight_rounding": "adaptive", "bias_correction": "empirical"},
}
CALCULATORS: dict[str, dict[str, dict[str, str]]] = {
    "ranges from histograms": {"activations": {"qparam_calculator_cls": "histogram"}},
    "asymmetric, from histograms": {"activations": {"qparam_calculator_cls": "histogram", "qscheme": "asymmetric"}},
    "ranges from percentiles": {"activations": {"qparam_calculator_cls": "percentile"}},
    "weights of least error": {"weights": {"qparam_calculator_cls": "mse"}},
}
SETTINGS: dict[str, Callable[[], QuantizerConfig]] = {
    "W8A8": QuantizerConfig.presets.w8a8,
    "W8A8 per tensor": lambda: _per_tensor(QuantizerConfig.presets.w8a8()),
    "W4A8": QuantizerConfig.presets.w4a8,
    "W4, blocks of 32": QuantizerConfig.presets.w4_per_block,
    "best": QuantizerConfig.presets.best,
}


def _per_tensor(config: QuantizerConfig) -> QuantizerConfig:
    spec = evolve(config.global_config.op_state_spec["weight"], granularity="per_tensor")
    config.global_config.op_state_spec = {"weight": spec}
    return config


def _with_calculators(
    make: Callable[[], QuantizerConfig], activations: Mapping[str, str] = {}, weights: Mapping[str, str] = {}
) -> Callable[[], QuantizerConfig]:
    """Return a config factory like `make` with other calculators or schemes for activations or weights."""

    def made() -> QuantizerConfig:
        config = make()
        module = config.global_config
        module.op_input_spec = _changed(module.op_input_spec, activations)
        module.op_output_spec = _changed(module.op_output_spec, activations)
        module.op_state_spec = _changed(module.op_state_spec, weights)
        return config

    return made


def _changed(specs: Mapping[Any, Any] | None, changes: Mapping[str, str]) -> dict[Any, Any] | None:
    return None if specs is None else {key: evolve(spec, **changes) for key, spec in specs.items()}


def quantized(make: Callable[[], QuantizerConfig], options: dict[str, Any]) -> Callable[..., nn.Module]:
    """Return a `Method.compress` that quantizes with a config and options, and calibrates."""

    def compress(model: nn.Module, batches: Sequence[torch.Tensor]) -> nn.Module:
        config = make()
        for name, value in options.items():
            setattr(config, name, value)
        quantizer = Quantizer(model, config)
        prepared = quantizer.prepare((batches[0],))
        with quantizer.calibration_mode():
            for batch in batches:
                prepared(batch)
        return quantizer.finalize()

    return compress


METHODS: list[Method] = [
    Method(setting, option, quantized(make, options))
    for setting, make in SETTINGS.items()
    for option, options in (OPTIONS.items() if setting != "best" else [("as it is", {})])
] + [
    Method(setting, option, quantized(_with_calculators(SETTINGS[setting], **changes), {}))
    for setting in ("W8A8", "W4A8")
    for option, changes in CALCULATORS.items()
]
METHODS.append(
    Method(
        "W8A8",
        "operands of products only",
        quantized(lambda: QuantizerConfig.presets.w8a8(placement="matmul-inputs"), {}),
    )
)


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice([subject.name for subject in SUBJECTS]))
@click.option("--setting", "settings", multiple=True, help="Rows of these settings only; repeatable.")
@click.option("--option", "options", multiple=True, help="Rows of these options only; repeatable.")
def main(models: tuple[str, ...], settings: tuple[str, ...], options: tuple[str, ...]) -> None:
    """Print a Markdown table per model: settings, options, metrics, and seconds to compress."""
    torch.set_num_threads(1)
    out, progress = Console(soft_wrap=True, highlight=False), Console(stderr=True)
    for subject in SUBJECTS:
        if models and subject.name not in models:
            continue
        model, batches = subject.load()
        out.print(
            f"\n## {subject.name}\n\n| setting | option | {' | '.join(subject.figures)} | seconds |", markup=False
        )
        out.print("|---" * (3 + len(subject.figures)) + "|", markup=False)
        _print_row(out, "float", "", subject.score(model, model), None)
        for method in METHODS:
            if (settings and method.setting not in settings) or (options and method.option not in options):
                continue
            progress.print(f"[dim]{subject.name}: {method.setting}, {method.option}", highlight=False)
            start = time.perf_counter()
            try:
                compressed = method.compress(model, batches)
            except ValueError as error:  # a setting that does not fit the model
                progress.print(f"[dim]{str(error).splitlines()[0]}", highlight=False)
                continue
            seconds = time.perf_counter() - start
            _print_row(out, method.setting, method.option, subject.score(compressed, model), seconds)


def _print_row(out: Console, setting: str, option: str, figures: Sequence[float], seconds: float | None) -> None:
    cells = [setting, option, *(f"{figure:.2f}" for figure in figures), "" if seconds is None else f"{seconds:.1f}"]
    out.print(f"| {' | '.join(cells)} |", markup=False)


if __name__ == "__main__":
    main()

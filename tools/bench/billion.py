"""Palettize a synthetic transformer with a billion weights, and print seconds and peak memory.

Run as ``python -m graphpress.tools.bench.billion``. Weights are random 16-bit values, untied: 2 GB. Memory is that of
the process by the kernel (Linux); the high-water mark is reset before each step, so peaks include the model itself.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import TypeVar

import click
import torch
from torch import nn

from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.palettization.spec import PalettizationSpec, PerGroupedChannelGranularity, PerTensorGranularity
from graphpress.tools.models.transformers import Transformer

T = TypeVar("T")
VOCABULARY, DIM, HEADS = 32_768, 2_048, 16


@click.command()
@click.option(
    "--layers",
    default=19,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of layers; 19 have 1.02 billion weights.",
)
@click.option("--bits", default=4, show_default=True, type=click.Choice([1, 2, 3, 4, 6, 8]), help="Of each index.")
@click.option("--group", type=click.IntRange(min=1), help="Output channels per lookup table (default: all).")
@click.option("--dtype", default="bfloat16", show_default=True, type=click.Choice(["bfloat16", "float16"]))
@click.option("--copy/--in-place", default=False, show_default=True, help="Keep the float model too.")
def main(layers: int, bits: int, group: int | None, dtype: str, copy: bool) -> None:
    """Print wall and CPU seconds and memory in GB of building, prepare and finalize."""
    torch.set_num_threads(1)
    model = step("build", lambda: build(layers, getattr(torch, dtype)))
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    largest = max(weight.numel() for weight in weights)
    size = sum(weight.numel() for weight in weights)
    print(f"{size / 1e9:.3f} billion weights in {len(weights)} tensors, the largest of {largest / 1e6:.1f}M, {dtype}")
    granularity = PerGroupedChannelGranularity(axis=0, group_size=group) if group else PerTensorGranularity()
    spec = PalettizationSpec(n_bits=bits, granularity=granularity)
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec}))
    palettizer = KMeansPalettizer(model, config)
    del weights
    step("prepare", lambda: palettizer.prepare(torch.zeros(1, 8, dtype=torch.int64), copy=copy), largest)
    step("finalize", palettizer.finalize, largest)


def build(layers: int, dtype: torch.dtype) -> nn.Module:
    """Return a transformer with heavy-tailed weights (normal times the square root of the size), drawn per tensor."""
    with torch.device("meta"):
        model = Transformer(VOCABULARY, DIM, layers, HEADS, 1_000).to(dtype)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn.mul_(drawn.abs().sqrt()).mul_(1 / math.sqrt(DIM)))
    return model


def step(name: str, run: Callable[[], T], largest: int | None = None) -> T:
    """Run a step, and print its time and memory.

    With `largest`, the number of elements of the largest layer, the peak per element is printed too.
    """
    gc.collect()
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")  # resets the high-water mark
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    result = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak, after = memory("VmHWM"), memory("VmRSS")
    share = (
        ""
        if largest is None
        else f", {(peak - max(before, after)) / largest:.1f} bytes per element of the largest beyond what stays"
    )
    print(
        f"{name}: {wall:.1f} s (processor {cpu:.1f} s), before {before / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB, "
        f"after {after / 1e9:.2f} GB{share}",
        flush=True,
    )
    return result


def memory(key: str) -> int:
    """Return the memory of this process in bytes: resident (`VmRSS`) or peak since the last reset (`VmHWM`)."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()

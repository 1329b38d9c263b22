"""Small models to divide precision in, and what the tests of the search share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphpress.palettization import KMeansPalettizer, ModuleKMeansPalettizerConfig, PalettizationSpec
from graphpress.search import Compression, OutputMetric, against

DATA = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
INPUTS = [DATA[:4], DATA[4:]]


class Pictures(nn.Module):
    """Three convolutions, one in a block of its own, and a head; `scale` makes the first one matter most."""

    def __init__(self, scale: float = 4.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.head = nn.Linear(16, 10)
        with torch.no_grad():
            self.stem.weight *= scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        return self.head((h + self.block(h)).mean((2, 3)))


def bits(*widths: int, **more: Any) -> dict[str, ModuleKMeansPalettizerConfig]:
    """A candidate for each number of bits."""
    return {
        f"{width} bits": ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=width, **more)})
        for width in widths
    }


def palettization(model: nn.Module, **more: Any) -> tuple[nn.Module, Compression, OutputMetric]:
    """A model, how it is palettized, and the error of its outputs."""
    model = model.eval()
    return model, Compression(compressor=KMeansPalettizer, example_inputs=(DATA[:2],), **more), against(model, INPUTS)

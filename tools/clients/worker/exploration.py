"""Runs the compression-exploration recipe of a checkout of coreai-models: its loop, its metrics, 45 configurations."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_RECIPE = "skills/skills/model-compression-exploration"
_SCHEMES = ("symmetric", "asymmetric", "symmetric_with_clipping")
_TABLES = (
    (8, None, False),
    *(
        (bits, group, scaled)
        for bits, group in ((6, None), (6, 4), (6, 8), (6, 16), (4, 4), (4, 8), (4, 16))
        for scaled in (False, True)
    ),
)


class Mixer(nn.Module):
    """A small network with linear layers and a convolution, which every configuration divides."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.activation = nn.LayerNorm(128), nn.GELU()
        self.up, self.down = nn.Linear(128, 256), nn.Linear(256, 128)
        self.conv, self.head = nn.Conv1d(128, 128, 3, padding=1), nn.Linear(128, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, length, 128) to (batch, length, 64)."""
        tokens = tokens + self.down(self.activation(self.up(self.norm(tokens))))
        tokens = tokens + self.conv(tokens.transpose(1, 2)).transpose(1, 2)
        head: Tensor = self.head(tokens)
        return head


def explore(checkout: str) -> dict[str, Any]:
    """Return name, decibels, size and error of each configuration, and the CPU seconds of all."""
    recipe = Path(checkout) / _RECIPE
    sys.path.insert(0, str(recipe / "scripts"))
    loop = _loop(recipe / "references" / "experiment_runner.md")
    start = time.process_time()
    results = loop.run_compression_experiments(_model, _data, ["psnr"], [*_configurations()])
    seconds = time.process_time() - start
    rows = [
        {
            "name": each.config_name,
            "decibels": each.metrics[0]["value"] if each.metrics else None,
            "megabytes": each.size_mb,
            "error": each.error,
        }
        for each in results
    ]
    return {"rows": rows, "seconds": seconds}


def _loop(document: Path) -> Any:
    """Execute the recipe's loop, a block of Python in its document, and return it as a module."""
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    source = next(block for block in blocks if "def run_compression_experiments" in block)
    module = sys.modules["compression_exploration_loop"] = ModuleType("compression_exploration_loop")
    exec(compile(source, str(document), "exec"), vars(module))
    return module


def _model() -> nn.Module:
    torch.manual_seed(0)
    return Mixer()


def _data() -> tuple[Tensor]:
    return (torch.randn(2, 16, 128, generator=torch.Generator().manual_seed(1)),)


Apply = Callable[[nn.Module, Any], tuple[nn.Module, Any]]


def _configurations() -> Iterator[dict[str, Any]]:
    granularities: Any = importlib.import_module("coreai_opt.quantization.spec")
    kinds = [("int8", "channel", granularities.PerChannelGranularity(axis=0))]
    kinds += [("int4", "channel", granularities.PerChannelGranularity(axis=0))]
    kinds += [
        ("int4", f"block {size}", granularities.PerBlockGranularity(axis=1, block_size=size)) for size in (16, 32, 128)
    ]
    for mode in ("graph", "eager"):
        for scheme in _SCHEMES:
            for dtype, name, granularity in kinds:
                spec = {"dtype": dtype, "qscheme": scheme, "granularity": granularity}
                yield {"name": f"{dtype} {name} {scheme} {mode}", "group": "1", "apply": _quantizing(spec, mode)}
    for bits, group, scaled in _TABLES:
        name = f"table of {bits} bits, {'whole' if group is None else f'groups of {group}'}{', scales' * scaled}"
        yield {"name": name, "group": "2", "apply": _palettizing(bits, group, scaled)}


def _quantizing(spec: dict[str, Any], mode: str) -> Apply:
    def apply(model: nn.Module, data: Any) -> tuple[nn.Module, Any]:
        package: Any = importlib.import_module("coreai_opt.quantization")
        module_config = package.ModuleQuantizerConfig(
            op_state_spec={"weight": package.QuantizationSpec(**spec)}, op_input_spec=None, op_output_spec=None
        )
        quantizer = package.Quantizer(model, package.QuantizerConfig(global_config=module_config, execution_mode=mode))
        return quantizer.prepare(data), quantizer

    return apply


def _palettizing(bits: int, group: int | None, scaled: bool) -> Apply:
    def apply(model: nn.Module, data: Any) -> tuple[nn.Module, Any]:
        package: Any = importlib.import_module("coreai_opt.palettization")
        specs: Any = importlib.import_module("coreai_opt.palettization.spec")
        granularity = (
            specs.PerTensorGranularity()
            if group is None
            else specs.PerGroupedChannelGranularity(axis=0, group_size=group)
        )
        spec = package.PalettizationSpec(n_bits=bits, granularity=granularity, enable_per_channel_scale=scaled)
        module_config = package.ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec})
        palettizer = package.KMeansPalettizer(model, package.KMeansPalettizerConfig(global_config=module_config))
        return palettizer.prepare(data), palettizer

    return apply

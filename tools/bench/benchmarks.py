"""The speed benchmarks: tasks per process, and ratios of interest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphpress.tools.bench.sides import Benchmark

QUANTIZED_MODELS = ("resnet50", "mobilenet_v2", "vit_small", "gpt")
TRAINED_MODELS = ("mobilenet_v2", "vit_small")
CHAIN_BLOCKS = (200, 2000)
LANGUAGE_MODELS = ("llama", "gemma-3", "cohere", "deepseek-v3", "recurrent-gemma", "qwen3-next")
SCALAR_SETTINGS = {
    "4 bits per tensor": {"bits": 4},
    "8 bits per tensor": {"bits": 8},
    "4 bits, groups of 16": {"bits": 4, "group": 16},
    "6 bits, groups of 16": {"bits": 6, "group": 16},
}
VECTOR_SETTINGS = {
    "16 centroids of 2": {"bits": 4, "vector": 2},
    "256 centroids of 2": {"bits": 8, "vector": 2},
    "16 centroids of 4": {"bits": 4, "vector": 4},
    "256 centroids of 4": {"bits": 8, "vector": 4},
}
PALETTE_SETTINGS = SCALAR_SETTINGS | VECTOR_SETTINGS
SCALAR_MODELS = ("resnet50", "gpt")
VECTOR_MODEL = "edsr"


def quantization(models: Sequence[str] = QUANTIZED_MODELS, forwards: int = 5) -> list[Benchmark]:
    """Return default quantizations per model, first in a process and warm."""
    ratios = []
    for label in ("first", "warm"):
        ratios.append(((label, "prepare"), (label, "torch.export")))
        for step in ("calibration step", "evaluation forward"):
            ratios.append(((label, step), (label, f"float forward beside {step}")))
    benchmarks = []
    for model in models:
        export = {"do": "export", "model": model}
        quantize = {"do": "quantize", "model": model, "forwards": forwards}
        processes: list[list[dict[str, Any]]] = [
            [export | {"label": "first"}, export | {"label": "warm"}],
            [{"do": "import", "label": "first"}, quantize | {"label": "first"}, quantize | {"label": "warm"}],
        ]
        benchmarks.append(Benchmark(f"quantization of {model}", processes, ratios))
    return benchmarks


def language(models: Sequence[str] = LANGUAGE_MODELS) -> list[Benchmark]:
    """Return one export and one default preparation per model of the zoo, warm."""
    benchmarks = []
    for model in models:
        task = {"model": model, "zoo": True}
        quantize = task | {"do": "quantize", "forwards": 0, "finalize": False}
        warm = {"do": "quantize", "model": "small_transformer", "forwards": 0, "finalize": False}
        tasks = [warm, task | {"do": "export", "label": "warm"}, quantize | {"label": "warm"}]
        ratio = (("warm", "prepare"), ("warm", "torch.export"))
        benchmarks.append(Benchmark(f"preparation of {model}", [tasks], [ratio]))
    return benchmarks


def eager(models: Sequence[str] = QUANTIZED_MODELS, forwards: int = 5) -> list[Benchmark]:
    """Return default quantizations in eager mode per model."""
    steps = ("calibration step", "evaluation forward")
    ratios = [(("warm", step), ("warm", f"float forward beside {step}")) for step in steps]
    task = {"do": "quantize", "mode": "eager", "forwards": forwards}
    return [
        Benchmark(
            f"eager quantization of {model}",
            [[task | {"model": model, "label": "first"}, task | {"model": model, "label": "warm"}]],
            ratios,
        )
        for model in models
    ]


def training(models: Sequence[str] = TRAINED_MODELS, steps: int = 5) -> list[Benchmark]:
    """Return steps of quantization-aware training with the default config per model."""
    ratio = (("warm", "training step"), ("warm", "float training step"))
    return [
        Benchmark(f"training of {model}", [[{"do": "train", "model": model, "steps": steps, "label": "warm"}]], [ratio])
        for model in models
    ]


def palettization(models: Sequence[str] = (), settings: Sequence[str] = ()) -> list[Benchmark]:
    """Return palettizations by model and setting, each in its own process.

    Scalars are clustered on `SCALAR_MODELS` and vectors on `VECTOR_MODEL`, unless `models` is passed.
    """
    benchmarks = []
    chosen = settings or tuple(PALETTE_SETTINGS)
    for model, title in _palettizations(models, chosen):
        setting = PALETTE_SETTINGS[title]
        tasks = [
            # Warm up the compiler on a tiny model.
            {"do": "palettize", "model": "small_transformer"} | setting,
            {"do": "palettize", "model": model, "label": "warm"} | setting,
        ]
        ratios = [
            (("warm", "prepare"), ("warm", "sort and assignment")),
            (("warm", "finalized forward"), ("warm", "float forward beside finalized forward")),
        ]
        benchmarks.append(Benchmark(f"palettization of {model}, {title}", [tasks], ratios))
    return benchmarks


def _palettizations(models: Sequence[str], settings: Sequence[str]) -> list[tuple[str, str]]:
    if models:
        return [(model, setting) for model in models for setting in settings]
    scalars = [(model, setting) for model in SCALAR_MODELS for setting in settings if setting in SCALAR_SETTINGS]
    return scalars + [(VECTOR_MODEL, setting) for setting in settings if setting in VECTOR_SETTINGS]


def growth(blocks: Sequence[int] = CHAIN_BLOCKS) -> list[Benchmark]:
    """Return prepare and finalize of conv-bn-relu chains of growing length."""
    ratios = [
        (("warm", "prepare"), ("warm", "exports inside prepare")),
        (("warm", "prepare without exports"), ("warm", "exports inside prepare")),
    ]
    benchmarks = []
    for count in blocks:
        chain = {"do": "quantize", "model": "conv_bn_relu_chain", "forwards": 0}
        tasks = [chain | {"arguments": {"blocks": 2}}, chain | {"arguments": {"blocks": count}, "label": "warm"}]
        benchmarks.append(Benchmark(f"chain of {count} conv-bn-relu blocks", [tasks], ratios))
    return benchmarks

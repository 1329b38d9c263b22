"""Runs the exporters of a checkout of coreai-models, and measures what they do with the compressor."""

from __future__ import annotations

import copy
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphpress.tools.clients.worker.checkpoints import OWNER


@attrs.define
class Watched:
    """What the client's last compressor did.

    Attributes:
        floating: a copy of the model before it.
        inputs: the example inputs.
        decibels: signal to noise of the first output of the finalized model, before the client goes on with it.
        seconds: CPU seconds of `prepare` and `finalize`, of all compressors.
    """

    floating: nn.Module | None = None
    inputs: tuple[Any, ...] = ()
    decibels: float | None = None
    seconds: dict[str, float] = attrs.field(factory=lambda: {"prepare": 0.0, "finalize": 0.0})

    def compare(self, finalized: nn.Module) -> None:
        """Set `decibels`."""
        assert self.floating is not None
        meant, got = (self._output(model) for model in (self.floating, finalized))
        noise = (meant - got).square().sum()
        self.decibels = round(float(10 * torch.log10(meant.square().sum() / noise)), 2) if noise else None

    def _output(self, model: nn.Module) -> Tensor:
        inputs = pytree.tree_map_only(Tensor, torch.clone, self.inputs)
        with torch.no_grad():
            first: Tensor = pytree.tree_leaves(model(*inputs))[0]
        return first.double()


def export(checkout: str, model: str, variant: str, preset: str) -> dict[str, Any]:
    """Export a checkpoint of `checkpoints` by the exporter of language models."""
    _import_from(checkout)
    pipeline: Any = importlib.import_module("coreai_models.export.pipeline")
    torch.manual_seed(0)  # the exporter draws its example inputs
    with tempfile.TemporaryDirectory(prefix="clients-") as folder, _watching() as watched:
        config = pipeline.ExportConfig(
            hf_model_id=f"{OWNER}/{model}",
            variant=variant,
            compression=preset,
            output_dir=folder,
            output_name="model",
            max_context_length=256,
        )
        return _figures(watched, lambda: pipeline.export_model(config), Path(folder))


def _figures(watched: Watched, call: Any, folder: Path) -> dict[str, Any]:
    error = None
    try:
        call()
    except Exception as raised:
        error = f"{type(raised).__name__}: {' '.join(str(raised).split())[:160]}"
    files = [each for each in folder.rglob("*.aimodel/*") if each.is_file()]
    return {
        "error": error,
        "bytes": sum(each.stat().st_size for each in files),
        "decibels": watched.decibels,
        **watched.seconds,
    }


def _import_from(checkout: str) -> None:
    """Import `coreai_models` from a checkout; `AIProgram.optimize`, which the released core lacks, does nothing."""
    source = str(Path(checkout) / "python" / "src")
    if source not in sys.path:
        sys.path.insert(0, source)
    program: Any = importlib.import_module("coreai.authoring").AIProgram
    if not hasattr(program, "optimize"):
        program.optimize = lambda self: None


@contextmanager
def _watching() -> Iterator[Watched]:
    """Record what compressors do inside; their classes are as before afterwards."""
    watched = Watched()
    kinds: list[Any] = [
        importlib.import_module("coreai_opt.quantization").Quantizer,
        importlib.import_module("coreai_opt.palettization").KMeansPalettizer,
    ]
    before = [(kind, name, getattr(kind, name)) for kind in kinds for name in ("__init__", "prepare", "finalize")]
    for kind, name, original in before:
        setattr(kind, name, _recording(watched, name, original))
    try:
        yield watched
    finally:
        for kind, name, original in before:
            setattr(kind, name, original)


def _recording(watched: Watched, name: str, original: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name == "__init__":
            watched.floating = copy.deepcopy(args[0])
            return original(self, *args, **kwargs)
        if name == "prepare":
            watched.inputs = pytree.tree_map_only(Tensor, torch.clone, kwargs.get("example_inputs") or args[0])
        start = time.process_time()
        result = original(self, *args, **kwargs)
        watched.seconds[name] += time.process_time() - start
        if name == "finalize":
            watched.compare(result)
        return result

    return call

"""Runs the exporters of a checkout of coreai-models."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphpress.tools.clients.worker.checkpoints import OWNER
from graphpress.tools.clients.worker.watching import watching


def export(checkout: str, model: str, variant: str, preset: str) -> dict[str, Any]:
    """Export a checkpoint of `checkpoints` by the exporter of language models."""
    _import_from(checkout)
    pipeline: Any = importlib.import_module("coreai_models.export.pipeline")

    def run(folder: str) -> None:
        config = pipeline.ExportConfig(
            hf_model_id=f"{OWNER}/{model}",
            variant=variant,
            compression=preset,
            output_dir=folder,
            output_name="model",
            max_context_length=256,
        )
        pipeline.export_model(config)

    return _figures(run)


def segment(checkout: str, model: str) -> dict[str, Any]:
    """Export a checkpoint of SAM 3 by the exporter of its segmentation for iOS.

    It reads `rope_theta` of the config, which releases of transformers after those it asks for keep among others.
    """
    _import_from(checkout)
    vision: Any = importlib.import_module("transformers").Sam3ViTConfig
    if not hasattr(vision, "rope_theta"):
        vision.rope_theta = property(lambda config: (config.rope_parameters or {}).get("rope_theta", 10_000.0))
    pipeline: Any = importlib.import_module("coreai_models.segmentation.pipeline")

    def run(folder: str) -> None:
        config = pipeline.SegmentationExportConfig(
            hf_model_id=f"{OWNER}/{model}", output_dir=folder, output_name="model"
        )
        pipeline.export_segmentation(config)

    return _figures(run)


def _figures(run: Callable[[str], None]) -> dict[str, Any]:
    """Call `run` with a folder; return the bytes of the assets there and what the compressors did."""
    error = None
    _compile_kernels()
    torch.manual_seed(0)  # exporters draw their example inputs
    with tempfile.TemporaryDirectory(prefix="clients-") as folder, watching() as watched:
        try:
            run(folder)
        except Exception as raised:
            error = f"{type(raised).__name__}: {' '.join(str(raised).split())[:160]}"
        files = [each for each in Path(folder).rglob("*.aimodel/*") if each.is_file()]
        return {"error": error, "bytes": sum(each.stat().st_size for each in files), **watched.figures()}


def _compile_kernels() -> None:
    """Palettize a small layer: both sides compile their kernels at the first palettization on a machine."""
    package: Any = importlib.import_module("coreai_opt.palettization")
    spec = package.PalettizationSpec(n_bits=4)
    config = package.ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec})
    palettizer = package.KMeansPalettizer(nn.Linear(16, 16), package.KMeansPalettizerConfig(global_config=config))
    palettizer.prepare((torch.zeros(1, 16),))


def _import_from(checkout: str) -> None:
    """Import `coreai_models` from a checkout, and give `AIProgram` what the exporters call and the released core lacks.

    The released core has no `optimize`. Its `set_static_shape_config` replaces an entrypoint by one for each shape, so
    that the exporter for iOS does not find the entrypoint that it sets constraints of next: shapes are set when the
    exporter calls `optimize`.
    """
    source = str(Path(checkout) / "python" / "src")
    if source not in sys.path:
        sys.path.insert(0, source)
    program: Any = importlib.import_module("coreai.authoring").AIProgram
    if hasattr(program, "optimize"):
        return
    set_shapes = program.set_static_shape_config

    def optimize(self: Any) -> None:
        for arguments in vars(self).pop("_later", ()):
            set_shapes(self, *arguments)

    def set_shapes_later(self: Any, *arguments: Any) -> None:
        vars(self).setdefault("_later", []).append(arguments)

    program.set_static_shape_config = set_shapes_later
    program.optimize = optimize

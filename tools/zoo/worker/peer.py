"""The stages of the peer's side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import attrs
import torch
from coreai_opt import ExportBackend
from coreai_opt.quantization import Quantizer, QuantizerConfig
from torch import nn

from graphpress.tools.zoo.entry import Inputs, ZooModel
from graphpress.tools.zoo.worker.operations import executed_operations
from graphpress.tools.zoo.worker.stage import Skipped, StageRun, decibels_of, decibels_of_sets

IMPORTS = ("coreai_torch",)


@attrs.define(eq=False)
class Subject:
    """An architecture, and the model that the peer finalized."""

    model: ZooModel
    calibration_sets: int
    module: nn.Module = attrs.field(init=False)
    finalized: nn.Module | None = None

    def __attrs_post_init__(self) -> None:
        self.module = self.model.build()


def prepared(module: nn.Module, example: Inputs) -> tuple[Quantizer, nn.Module]:
    """Return a quantizer with the default config, and its prepared model."""
    quantizer = Quantizer(module, QuantizerConfig())
    return quantizer, quantizer.prepare(example)


def peer(subject: Subject, run: StageRun) -> None:
    """The default config: prepare, calibrate, finalize."""
    model = subject.model
    with run.timing("prepare"):
        prepared(subject.module, model.example())
    with run.timing("calibrate"):
        sets, quantizer, _ = decibels_of_sets(model, prepared, subject.calibration_sets)
    run.figures |= decibels_of(sets)
    with run.timing("finalize"):
        subject.finalized = quantizer.finalize(backend=ExportBackend.CoreAI)


def peer_coreai(subject: Subject, run: StageRun) -> None:
    """Convert what the peer finalized with Core AI's converter."""
    import coreai_torch

    if subject.finalized is None:
        raise Skipped("the peer's W8A8 fails")
    with run.timing("convert"), torch.no_grad():
        program = torch.export.export(subject.finalized, subject.model.example())
        decomposed = program.run_decompositions(coreai_torch.get_decomp_table())
        converted = coreai_torch.TorchConverter().add_exported_program(decomposed).to_coreai()
    with tempfile.TemporaryDirectory(prefix="zoo-") as directory:
        path = Path(directory) / "model.aimodel"
        converted.save_asset(path)
        run.figures["ops"] = executed_operations(path)


Stage = Callable[[Subject, StageRun], None]
STAGES: dict[str, Stage] = {"peer": peer, "peer:coreai": peer_coreai}

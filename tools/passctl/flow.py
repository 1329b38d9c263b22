"""The flow of a compression: prune, palettize, quantize, calibrate, each finalized before the next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from graphpress.export_backend import ExportBackend
from graphpress.ir.errors import GraphpressError
from graphpress.palettization import KMeansPalettizer
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import Quantizer
from graphpress.tools.passctl.errors import InputDataError
from graphpress.tools.passctl.recipe import Recipe
from graphpress.tools.passctl.stages import Stages


def compress(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    recipe: Recipe,
    backend: ExportBackend,
    batches: Iterable[tuple[torch.Tensor, ...]],
    stages: Stages,
) -> nn.Module:
    """The finalized model: weights pruned, what is kept of them palettized, then what is left quantized, as the recipe
    says.

    Raises:
        GraphpressError: what the compressors raise.
        InputDataError: when the model does not run on a batch.
    """
    if recipe.pruning is not None:
        with stages.stage("prune"):
            pruner = MagnitudePruner(model, recipe.pruning)
            pruner.prepare(example_inputs)
            model = pruner.finalize(backend=backend)
    if recipe.palettization is not None:
        palettizer = KMeansPalettizer(model, recipe.palettization)
        with stages.stage("palettize"):
            palettized = palettizer.prepare(example_inputs)
        if palettizer.calibrates_on_data:
            with stages.stage("weigh by activations"), palettizer.calibration_mode():
                _run(palettized, batches, stages)
        with stages.stage("finalize weights"):
            model = palettizer.finalize(backend=backend)
    if recipe.quantization is not None:
        quantizer = Quantizer(model, recipe.quantization)
        with stages.stage("prepare quantizers"):
            prepared = quantizer.prepare(example_inputs)
        with stages.stage("calibrate"), quantizer.calibration_mode():
            _run(prepared, batches, stages)
        with stages.stage("finalize"):
            model = quantizer.finalize(backend=backend)
    return model


def _run(prepared: nn.Module, batches: Iterable[tuple[torch.Tensor, ...]], stages: Stages) -> None:
    for number, batch in enumerate(batches, start=1):
        stages.note(f"calibrate, batch {number}")
        try:
            with torch.no_grad():
                prepared(*batch)
        except GraphpressError:
            raise
        except Exception as error:
            shapes = ", ".join("x".join(map(str, each.shape)) for each in batch)
            reason = str(error).strip().split("\n")[0]
            raise InputDataError(
                f"the model does not run on calibration batch {number} ({shapes}): {reason}"
            ) from error

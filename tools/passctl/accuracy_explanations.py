"""Measurement of the quantizers of a model for `passctl explain --accuracy`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from graphpress.quantization import Quantizer, QuantizerConfig
from graphpress.quantization.quantizer import QuantizerCost
from graphpress.tools.passctl.compression import Recipe
from graphpress.tools.passctl.console import InputDataError, Stages
from graphpress.tools.passctl.inputs import CalibrationData
from graphpress.tools.passctl.models import Subject


def measured_costs(subject: Subject, config_file: Path | None, data_path: Path | None) -> list[QuantizerCost]:
    """Quantize a model, calibrate it, and measure its activation quantizers on the same data.

    Args:
        config_file: YAML file with a `quantization_config`; None is the default one.
        data_path: batches; None is the example inputs.

    Raises:
        GraphpressError: from the quantizer.
        InputDataError: if the data does not fit the model, or the config quantizes nothing.
    """
    config = QuantizerConfig() if config_file is None else Recipe.read(config_file).quantization
    if config is None:
        raise InputDataError(f"{config_file} has no quantization_config, whose quantizers could be measured")
    example = subject.example_inputs
    batches: Iterable[tuple[Any, ...]] = [example]
    if data_path is not None:
        batches = list(CalibrationData.open(data_path, subject.input_names, example))
    model = subject.model()
    quantizer = Quantizer(model, config)
    with Stages() as stages:
        with stages.stage("prepare quantizers"):
            shapes = None if isinstance(model, ExportedProgram) else subject.dynamic_shapes()
            prepared = quantizer.prepare(example, shapes)
        with stages.stage("calibrate"), quantizer.calibration_mode():
            for batch in batches:
                prepared(*batch)
        with stages.stage("measure"):
            return quantizer.costs(batches, progress=lambda done, total: stages.note(f"measure {done} of {total}"))

"""The compression configs of the demo's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from attrs import frozen
from torch import nn

from graphpress import ExportBackend
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import QuantizationScheme

Stage = Callable[[str], None]
"""Called with the name of the stage that begins."""


@frozen
class Row:
    """One way to compress the model.

    `compress(model, calibration images, stage)` returns the finalized model.
    """

    name: str
    file: str
    compress: Callable[[nn.Module, Sequence[torch.Tensor], Stage], nn.Module]


def keep_float(model: nn.Module, images: Sequence[torch.Tensor], stage: Stage) -> nn.Module:
    """Return the model unchanged."""
    return model


def quantize(model: nn.Module, images: Sequence[torch.Tensor], stage: Stage) -> nn.Module:
    """Quantize with the default config: int8 weights per channel, int8 activations per tensor."""
    quantizer = Quantizer(model, QuantizerConfig())
    return _calibrate_and_finalize(quantizer, images, stage)


def palettize_and_quantize(model: nn.Module, images: Sequence[torch.Tensor], stage: Stage) -> nn.Module:
    """Palettize to 4 bits with int8 table entries, then quantize activations to int8."""
    palettization, quantization = joint_configs()
    stage("palettize")
    palettizer = KMeansPalettizer(model, palettization)
    palettizer.prepare((images[0],))
    palettized = palettizer.finalize(backend=ExportBackend.CoreAI)
    return _calibrate_and_finalize(Quantizer(palettized, quantization), images, stage)


def joint_configs() -> tuple[KMeansPalettizerConfig, QuantizerConfig]:
    """Return the weight and activation configs of the last row."""
    table = QuantizationSpec(dtype=torch.int8, qscheme=QuantizationScheme.SYMMETRIC)
    weights = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=4, lut_qspec=table)})
    activations = QuantizationSpec(dtype=torch.int8, qscheme=QuantizationScheme.SYMMETRIC)
    return KMeansPalettizerConfig(global_config=weights), QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_state_spec=None, op_input_spec={"*": activations}, op_output_spec={"*": activations}
        )
    )


def _calibrate_and_finalize(quantizer: Quantizer, images: Sequence[torch.Tensor], stage: Stage) -> nn.Module:
    stage("prepare")
    prepared = quantizer.prepare((images[0],))
    stage("calibrate")
    with quantizer.calibration_mode():
        for image in images:
            prepared(image)
    stage("finalize")
    return quantizer.finalize(backend=ExportBackend.CoreAI)


ROWS = (
    Row("FP32", "edsr-fp32.aimodel", keep_float),
    Row("W8A8", "edsr-w8a8.aimodel", quantize),
    Row("P4A8", "edsr-p4a8.aimodel", palettize_and_quantize),
)

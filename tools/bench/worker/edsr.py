"""The super-resolution example: compress the trained EDSR, calibrate it, and upscale held-out images."""

import importlib
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from graphpress.tools.bench.worker.clock import ExportClock, Outcome
from graphpress.tools.edsr.model import load_trained


def upscale_with_edsr(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Upscale every `low.*` image of the file `task["images"]` and write the results to `task["upscaled"]`.

    `task["row"]` is `fp32`, `w8a8` (the default configuration), `p4` (4-bit tables, the default one) or `p4a8` (4-bit
    tables of int8 entries, int8 activations). The `calibration.*` images calibrate, in order; the first of them is the
    example input.
    """
    images = load_file(task["images"])
    calibration = [images[name] for name in _numbered(images, "calibration")]
    outcome = Outcome()
    model: nn.Module = load_trained()
    if task["row"] == "p4":
        model = outcome.measure("prepare", lambda: _prepare_p4(package, model, (calibration[0],)))
    elif task["row"] != "fp32":
        prepare = {"w8a8": _prepare_w8a8, "p4a8": _prepare_p4a8}[task["row"]]
        quantizer, model = outcome.measure("prepare", lambda: prepare(package, model, (calibration[0],)))
        outcome.measure("calibrate", lambda: _calibrate(quantizer, model, calibration))
    with torch.no_grad():
        upscaled = {name: model(images[name]).contiguous() for name in _numbered(images, "low")}
    save_file(upscaled, task["upscaled"])
    return outcome


def _prepare_w8a8(package: str, model: nn.Module, example: tuple[torch.Tensor, ...]) -> tuple[Any, nn.Module]:
    quantization = importlib.import_module(f"{package}.quantization")
    quantizer = quantization.Quantizer(model, quantization.QuantizerConfig())
    return quantizer, quantizer.prepare(example, dynamic_shapes=_any_size())


def _prepare_p4(package: str, model: nn.Module, example: tuple[torch.Tensor, ...]) -> nn.Module:
    palettization = importlib.import_module(f"{package}.palettization")
    return palettization.KMeansPalettizer(model, palettization.KMeansPalettizerConfig()).prepare(example)


def _prepare_p4a8(package: str, model: nn.Module, example: tuple[torch.Tensor, ...]) -> tuple[Any, nn.Module]:
    quantization = importlib.import_module(f"{package}.quantization")
    palettization = importlib.import_module(f"{package}.palettization")
    backend = importlib.import_module(package).ExportBackend.CoreAI
    int8 = quantization.QuantizationSpec(dtype=torch.int8, qscheme="symmetric")

    weight = palettization.PalettizationSpec(n_bits=4, lut_qspec=int8)
    palettizer = palettization.KMeansPalettizer(
        model,
        palettization.KMeansPalettizerConfig(
            global_config=palettization.ModuleKMeansPalettizerConfig(op_state_spec={"weight": weight})
        ),
    )
    palettizer.prepare(example)
    quantizer = quantization.Quantizer(
        palettizer.finalize(backend=backend),
        quantization.QuantizerConfig(
            global_config=quantization.ModuleQuantizerConfig(
                op_state_spec=None, op_input_spec={"*": int8}, op_output_spec={"*": int8}
            )
        ),
    )
    return quantizer, quantizer.prepare(example, dynamic_shapes=_any_size())


def _any_size() -> tuple[dict[int, Any], ...]:
    """Height and width may differ from the example's: calibration and evaluation images are not of one size."""
    return ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)


def _calibrate(quantizer: Any, prepared: nn.Module, images: list[torch.Tensor]) -> None:
    with quantizer.calibration_mode(), torch.no_grad():
        for image in images:
            prepared(image)


def _numbered(images: dict[str, torch.Tensor], kind: str) -> list[str]:
    return sorted(name for name in images if name.startswith(f"{kind}."))

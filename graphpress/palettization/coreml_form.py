"""A palettized model in the form that coremltools reads: float parameters, and buffers that say how they were made.

The protocol is coremltools' compression metadata, version 1: on each module ``_COREML_/<parameter>/<key>`` and on the
model ``_COREML_/metadata_version``. coremltools finds the indices again from the parameter and the table.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from graphpress.compressed_module import drop_form
from graphpress.ir import reference
from graphpress.mapped_tensors import Mapped
from graphpress.palettization.finalizing import copied
from graphpress.palettization.forms import tensors_of
from graphpress.passes.palettization import PalettizationError, PalettizedWeight

_PALETTIZED, _QUANTIZED = 2, 3


def stored_for_coreml(prepared: nn.Module, mmap_dir: str | PathLike[str] | None = None) -> nn.Module:
    """A copy of `prepared` whose palettized parameters hold the palettized values, described by buffers.

    Raises:
        PalettizationError: naming the weights that this form cannot describe.
    """
    model, palettized = copied(prepared)
    refused = [
        f"{path}.{form.name}: {reason}"
        for path, module, form in palettized
        if (reason := _refusal(form.stored(module)))
    ]
    if refused:
        lines = "".join(f"\n  {line}" for line in refused)
        raise PalettizationError(f"coremltools' compression metadata cannot describe {len(refused)} weights:{lines}")
    mapped = Mapped(None if mmap_dir is None else Path(mmap_dir))
    dense: dict[int, nn.Parameter] = {}
    for path, module, form in palettized:
        stored = form.stored(module)
        drop_form(module, form.name)
        for part in tensors_of(stored):
            del module._buffers[f"{form.name}_{part}"]
        name = f"{path}.{form.name}" if path else form.name
        if id(stored.indices) not in dense:
            dense[id(stored.indices)] = nn.Parameter(mapped(name, stored.dense()), requires_grad=False)
        module._parameters[form.name] = dense[id(stored.indices)]
        for key, value in _metadata(stored).items():
            module._buffers[f"_COREML_/{form.name}/{key}"] = value
    if palettized:
        model._buffers["_COREML_/metadata_version"] = torch.tensor(1)
    return model.eval()


def _refusal(weight: PalettizedWeight) -> str:
    if weight.scale is None:
        return ""
    if weight.lut.dtype == weight.dtype:
        scaled_vectors = weight.lut.shape[-1] > 1
        return "vectors with a scale per channel; leave out one of the two" if scaled_vectors else ""
    if weight.lut.is_floating_point():
        return f"tables of {weight.lut_type.long_name} do not exist in Core ML; use int8 or uint8"
    if weight.minval is not None:
        return "minimum values do not exist in Core ML; use the zero-point formulation"
    if weight.lut.shape[-1] > 1:
        return "quantized tables of vectors; use cluster_dim=1 or leave the table in floats"
    if weight.scale.numel() > 1:
        return "quantized tables with a scale per channel; leave out one of the two"
    return ""


def _metadata(weight: PalettizedWeight) -> dict[str, Tensor]:
    if weight.scale is None:
        found = {"compression_type": torch.tensor([_PALETTIZED]), "lut": weight.lut}
    elif weight.lut.dtype == weight.dtype:
        found = {
            "compression_type": torch.tensor([_PALETTIZED]),
            "lut": weight.lut,
            "palettization_scale": weight.scale.to(weight.dtype),
        }
    else:
        scale, zero_point = (None if p is None else p[..., None, None] for p in (weight.scale, weight.zero_point))
        assert scale is not None
        values = reference.dequantize(weight.lut, scale, zero_point, dtype=weight.lut_type)
        found = {
            "compression_type": torch.tensor([_PALETTIZED, _QUANTIZED]),
            "lut": values.to(weight.dtype),
            "quantization_n_bits": torch.tensor(weight.lut_type.bits),
            "quantization_scale": scale.to(weight.dtype),
        }
        if zero_point is not None:
            found["zero_point"] = zero_point.to(weight.lut.dtype)
    if weight.lut.shape[-1] > 1:
        found["vector_axis"] = torch.tensor(weight.axis)
    return {key: value.clone() for key, value in found.items()}

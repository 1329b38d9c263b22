"""coremltools' compression metadata, version 1: float parameters, and buffers that say how they were made.

On each module there is ``_COREML_/<parameter>/<key>``, and on the model ``_COREML_/metadata_version``. coremltools
finds the codes again from the parameter and these.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graphpress.backends.coreml.translations import scaled_vectors
from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.passes.weights import (
    PalettizedWeight,
    PrunedWeight,
    QuantizedWeight,
    StoredWeight,
    is_smaller_sparse,
)

PREFIX = "_COREML_"
WEIGHTS = frozenset({DType.INT4, DType.UINT4, DType.INT8, DType.UINT8})
ACTIVATIONS = {DType.INT8: torch.qint8, DType.UINT8: torch.quint8}
"""Element types of activations, and the torch dtypes that quantize to them."""

PRUNING_THRESHOLD = float(torch.finfo(torch.float16).eps)
"""coremltools takes elements of pruned weights up to this magnitude for zeros."""

_PRUNED, _PALETTIZED, _QUANTIZED = 1, 2, 3


def describe(model: nn.Module, module: nn.Module, parameter: str, entries: Mapping[str, Tensor]) -> None:
    """Leave `entries` beside `parameter` of `module`, a module of `model`."""
    for key, value in entries.items():
        module._buffers[f"{PREFIX}/{parameter}/{key}"] = value
    model._buffers[f"{PREFIX}/metadata_version"] = torch.tensor(1)


def forget(module: nn.Module, parameter: str) -> None:
    """Undo `describe` for one parameter; `forget_version` follows the last one."""
    for name in [name for name in module._buffers if name.startswith(f"{PREFIX}/{parameter}/")]:
        del module._buffers[name]


def forget_version(model: nn.Module) -> None:
    """Take the version off a model that describes nothing any more."""
    version = f"{PREFIX}/metadata_version"
    names = (name for module in model.modules() for name in module._buffers if name != version)
    if not any(name.startswith(f"{PREFIX}/") for name in names):
        model._buffers.pop(version, None)


def described_tables(module: nn.Module) -> list[str]:
    """The parameters of `module` that are described as palettized."""
    return [name.split("/")[1] for name in module._buffers if name.startswith(f"{PREFIX}/") and name.endswith("/lut")]


def is_pruned_only(module: nn.Module, parameter: str) -> bool:
    """True for a parameter that is described as pruned, and nothing else."""
    types = module._buffers.get(f"{PREFIX}/{parameter}/compression_type")
    return types is not None and types.tolist() == [_PRUNED]


def why_not_described(weight: StoredWeight) -> str:
    """What in a compressed weight the metadata has no words for; empty when nothing."""
    if isinstance(weight, PalettizedWeight):
        return why_not_palettized(weight)
    if isinstance(weight, QuantizedWeight):
        return why_not_quantized(weight.dtype, weight.minval is not None, DType.of(weight.scale.dtype))
    if isinstance(weight, PrunedWeight) and weight.is_sparse and not entries_of(weight):
        return f"zeros are made of kept elements up to {PRUNING_THRESHOLD:.2g}"
    return ""


def entries_of(weight: StoredWeight) -> dict[str, Tensor]:
    """The entries of a compressed weight that the metadata has words for; none for one that is stored as it is."""
    if isinstance(weight, PalettizedWeight):
        entries, bits = palettized_entries(weight), weight.n_bits
    elif isinstance(weight, QuantizedWeight):
        dtypes = weight.dtype, weight.codes.ndim, weight.weight_dtype.torch_dtype
        entries, bits = quantized_entries(weight.scale, weight.zero_point, *dtypes), weight.dtype.bits
    else:
        assert isinstance(weight, PrunedWeight)
        entries, bits = {}, weight.weight_bits
    return entries if weight.mask is None else with_pruning(entries, weight.dense(), weight.mask, bits)


def with_pruning(entries: Mapping[str, Tensor], dense: Tensor, mask: Tensor, bits: int) -> dict[str, Tensor]:
    """`entries` of a weight that is pruned, too, where the metadata can say so and the mask saves space.

    coremltools finds the mask again from the floats, `dense`: it is left out where kept ones are within the threshold,
    and beside tables that are quantized or scaled, which have no sparse form there.

    Args:
        entries: of its codes or tables; empty for floats.
        dense: the weight.
        mask: true for its kept elements.
        bits: of a kept element.
    """
    types = entries["compression_type"].tolist() if entries else []
    found = dense.abs() > PRUNING_THRESHOLD
    is_said = types in ([], [_PALETTIZED], [_QUANTIZED]) and "palettization_scale" not in entries
    is_lost = bool((dense[~found] != 0).any())
    if not is_said or is_lost or not is_smaller_sparse(mask, bits):
        return dict(entries)
    return {**entries, "compression_type": torch.tensor([_PRUNED, *types])}


def why_not_palettized(weight: PalettizedWeight) -> str:
    """What in a palettized weight the metadata has no words for; empty when nothing."""
    if weight.scale is None:
        return ""
    width = weight.lut.shape[-1]
    if weight.lut.dtype == weight.dtype:
        return ""
    if weight.lut.is_floating_point():
        return f"tables of {weight.lut_type.long_name} do not exist in Core ML; use int8 or uint8"
    if weight.minval is not None:
        return "minimum values do not exist in Core ML; use the zero-point formulation"
    return "quantized tables of vectors; use cluster_dim=1 or leave the table in floats" if width > 1 else ""


def palettized_entries(weight: PalettizedWeight) -> dict[str, Tensor]:
    """The entries of a palettized weight.

    A quantized table with a scale per channel is described as a table of the codes themselves, in floats, with that
    scale: the same values, and the codes are not stored in 8 bits. Vectors with a scale per channel become a table for
    each group of channels that share a vector.
    """
    if weight.scale is None:
        found = {"compression_type": torch.tensor([_PALETTIZED]), "lut": weight.lut}
    elif weight.lut.dtype == weight.dtype and weight.lut.shape[-1] > 1:
        lut = scaled_vectors(weight.lut, weight.scale, weight.axis, weight.indices.shape[weight.axis])
        found = {"compression_type": torch.tensor([_PALETTIZED]), "lut": lut}
    elif weight.lut.dtype == weight.dtype or weight.scale.numel() > 1:
        lut = weight.lut.to(weight.dtype)
        if weight.zero_point is not None:
            lut = lut - weight.zero_point.reshape(-1)[0].to(weight.dtype)
        found = {
            "compression_type": torch.tensor([_PALETTIZED]),
            "lut": lut,
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


def why_not_quantized(dtype: DType, has_minval: bool, scale_dtype: DType) -> str:
    """What in a quantized weight the metadata has no words for; empty when nothing."""
    if dtype.is_integer and scale_dtype is DType.FLOAT8_E8M0FNU:
        return "integers with scales of float8_e8m0fnu are not there in Core ML; accepted: a scale_dtype of None"
    if dtype not in WEIGHTS:
        names = ", ".join(sorted(each.long_name for each in WEIGHTS))
        return f"{dtype.long_name} is not there in Core ML; accepted: {names}"
    return "minimum values are not there in Core ML; use the zero-point formulation" if has_minval else ""


def quantized_entries(
    scale: Tensor, zero_point: Tensor | None, dtype: DType, rank: int, weight_dtype: torch.dtype
) -> dict[str, Tensor]:
    """The entries of a quantized weight of `rank` axes and `weight_dtype`."""
    shape = scale.shape if scale.ndim else (1,) * rank
    found = {
        "compression_type": torch.tensor([_QUANTIZED]),
        "quantization_n_bits": torch.tensor(dtype.bits),
        "quantization_scale": scale.reshape(shape).to(weight_dtype).clone(),
    }
    if zero_point is not None or dtype.is_signed_integer:
        zeros = torch.zeros_like(scale) if zero_point is None else zero_point
        found["zero_point"] = zeros.reshape(shape).round().to(dtype.torch_dtype)
    return found

"""How one weight of a model that is converted already is stored in fewer bits."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir import reference
from graphpress.ir.dtypes import DType as ElementType
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.palettization import PalettizedWeight, TooSmallError, palettize
from graphpress.passes.pruning import is_smaller_sparse, pruning_mask
from graphpress.passes.quantization.weights import weight_block_of
from graphpress.passes.specs import (
    BlockSizeError,
    PalettizationSpec,
    PerBlockGranularity,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    PruningSpec,
    QuantizationSpec,
)
from graphpress.quantization.fake_quantize import fake_quantizer


class WeightCompressionError(GraphpressError, ValueError):
    """An option that is none, or a converted model whose weights cannot be compressed."""


class DType(StrEnum):
    """What quantized weights, or entries of tables, are stored as."""

    INT4 = "int4"
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"


class CompressionGranularity(StrEnum):
    """What has a scale, or a table, of its own."""

    PER_TENSOR = "per_tensor"
    PER_CHANNEL = "per_channel"
    PER_BLOCK = "per_block"
    PER_GROUPED_CHANNEL = "per_grouped_channel"


class QScheme(StrEnum):
    """Whether zero is code 0."""

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"


@frozen(eq=False)
class QuantizedWeight:
    """Codes, and what they stand for: ``(codes - zero_point) * scale``, of the weight's rank."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    dtype: ElementType

    def dense(self) -> Tensor:
        """The weight that is stored, float32."""
        return reference.dequantize(self.codes, self.scale, self.zero_point, None, dtype=self.dtype)


@frozen(eq=False)
class SparseWeight:
    """Kept elements, 1-D in row-major order, and where they stand."""

    values: Tensor
    mask: Tensor

    def dense(self) -> Tensor:
        """The weight that is stored."""
        return reference.sparse_to_dense(self.values, self.mask)


StoredWeight = QuantizedWeight | PalettizedWeight | SparseWeight
Spec = QuantizationSpec | PalettizationSpec | PruningSpec


def stored(tensor: Tensor, spec: Spec, op_type: str, name: str) -> StoredWeight | None:
    """A weight as `spec` says, by the formulas of the passes; None where it stays as it is.

    Weights stay that blocks or groups do not divide, that have fewer elements than a table has entries, or of which a
    mask would take more space than it saves.
    """
    try:
        if isinstance(spec, PalettizationSpec):
            return palettize(tensor, spec, op_type, name=name)
        if isinstance(spec, QuantizationSpec):
            return _quantized(tensor, spec, op_type, name)
    except (BlockSizeError, TooSmallError):
        return None
    mask = pruning_mask(tensor, spec, name=name)
    return SparseWeight(tensor[mask], mask) if is_smaller_sparse(mask, tensor.element_size() * 8) else None


def quantization_spec(dtype: object, granularity: object, qscheme: object, block_size: int) -> QuantizationSpec:
    """The spec of `quantize_weights`."""
    kind = _member(CompressionGranularity, granularity, "granularity")
    granularities: dict[CompressionGranularity, Any] = {
        CompressionGranularity.PER_TENSOR: PerTensorGranularity,
        CompressionGranularity.PER_CHANNEL: PerChannelGranularity,
        CompressionGranularity.PER_BLOCK: lambda: PerBlockGranularity(block_size=block_size),
    }
    if kind not in granularities:
        raise WeightCompressionError(
            f"granularity {kind.value!r} is one of tables; accepted: {', '.join(each.value for each in granularities)}"
        )
    return QuantizationSpec(
        dtype=_member(DType, dtype, "dtype").value,
        qscheme=_member(QScheme, qscheme, "qscheme").value,
        granularity=granularities[kind](),
    )


def palettization_spec(
    n_bits: int, granularity: object, group_size: int, lut_dtype: object, enable_per_channel_scale: bool
) -> PalettizationSpec:
    """The spec of `palettize_weights`."""
    kind = _member(CompressionGranularity, granularity, "granularity")
    if kind not in (CompressionGranularity.PER_TENSOR, CompressionGranularity.PER_GROUPED_CHANNEL):
        raise WeightCompressionError(
            f"granularity {kind.value!r} is one of scales; accepted: per_tensor, per_grouped_channel"
        )
    grouped = kind is CompressionGranularity.PER_GROUPED_CHANNEL
    entries = None if lut_dtype is None else _member(DType, lut_dtype, "lut_dtype")
    if entries is not None and entries not in (DType.INT8, DType.UINT8):
        raise WeightCompressionError(f"lut_dtype is {entries.value!r}; accepted: None, 'int8', 'uint8'")
    return PalettizationSpec(
        n_bits=n_bits,
        granularity=PerGroupedChannelGranularity(group_size=group_size) if grouped else PerTensorGranularity(),
        lut_qspec=None if entries is None else QuantizationSpec(dtype=entries.value),
        enable_per_channel_scale=enable_per_channel_scale,
    )


def check_threshold(value: object) -> int:
    """A number of elements.

    Raises:
        WeightCompressionError: when it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WeightCompressionError(f"weight_num_threshold is {value!r}; it must be an integer of at least 0")
    return value


def _quantized(tensor: Tensor, spec: QuantizationSpec, op_type: str, name: str) -> QuantizedWeight:
    block = weight_block_of(op_type, tuple(tensor.shape), spec.granularity, name, None)
    quantizer = fake_quantizer(name, spec, block, is_state=True)
    with torch.no_grad():
        qparams = quantizer.qparams(tensor.float())
    assert qparams is not None
    scale, zero_point, _ = (None if part is None else _ranked(part, tensor.ndim) for part in qparams)
    assert scale is not None
    codes = reference.quantize(tensor.float(), scale, zero_point, None, None, dtype=spec.element_type)
    return QuantizedWeight(codes, scale, zero_point, spec.element_type)


def _ranked(part: Tensor, rank: int) -> Tensor:
    return part.detach().reshape((1,) * rank) if part.numel() == 1 else part.detach()


def _member(kind: Any, value: object, what: str) -> Any:
    try:
        return kind(str(getattr(value, "value", value)).removeprefix("torch.").lower())
    except ValueError:
        accepted = [each.value for each in kind]
        raise WeightCompressionError(
            f"{what} is {value!r}{suggestion(str(value), accepted)}; accepted: {', '.join(accepted)}"
        ) from None

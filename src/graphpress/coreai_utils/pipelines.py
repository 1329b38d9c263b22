"""Options for compressing converted programs, and the pipelines they select."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.config import (
    BlockStructured,
    KMeansPalettizerConfig,
    MagnitudePrunerConfig,
    ModuleKMeansPalettizerConfig,
    ModuleMagnitudePrunerConfig,
    ModuleQuantizerConfig,
    NMStructured,
    PalettizationSpec,
    PerBlockGranularity,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    PruningSpec,
    QuantizationSpec,
    QuantizerConfig,
)
from graphpress.passes.framework import Pipeline
from graphpress.passes.palettize_weights import PalettizeWeights
from graphpress.passes.prune_weights import PruneWeights
from graphpress.passes.quantize_weights import QuantizeWeights


class WeightCompressionError(GraphpressError, ValueError):
    """An option has an invalid value, or options exclude each other."""


class DType(StrEnum):
    """Storage types of weight codes, lookup table entries and scales."""

    INT2 = "int2"
    UINT2 = "uint2"
    INT4 = "int4"
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"
    FP4_E2M1FN = "fp4_e2m1fn"
    FP8_E4M3FN = "fp8_e4m3fn"
    FP8_E5M2 = "fp8_e5m2"
    FP8_E8M0FNU = "fp8_e8m0fnu"
    """Powers of two; only for the scales of float codes."""


class CompressionGranularity(StrEnum):
    """The part of a weight that shares one scale or one lookup table."""

    PER_TENSOR = "per_tensor"
    PER_CHANNEL = "per_channel"
    PER_BLOCK = "per_block"
    PER_GROUPED_CHANNEL = "per_grouped_channel"


class QScheme(StrEnum):
    """Quantization scheme: symmetric, without zero points, or asymmetric."""

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"


E = TypeVar("E", bound=StrEnum)

_CODES = tuple(dtype for dtype in DType if dtype is not DType.FP8_E8M0FNU)
_ENTRIES = (DType.INT8, DType.UINT8, DType.FP8_E4M3FN, DType.FP8_E5M2)
_TABLE_BITS = (1, 2, 3, 4, 6, 8)


def quantization(
    dtype: object,
    qscheme: object,
    granularity: object,
    block_size: int,
    weight_num_threshold: int,
    scale_dtype: object = None,
) -> Pipeline:
    """Build the pipeline `quantize-weights` for weights of more than `weight_num_threshold` elements.

    Raises:
        WeightCompressionError: for an invalid option.
        SpecError: for options that exclude each other.
    """
    granularities: dict[CompressionGranularity, Callable[[], Any]] = {
        CompressionGranularity.PER_TENSOR: PerTensorGranularity,
        CompressionGranularity.PER_CHANNEL: PerChannelGranularity,
        CompressionGranularity.PER_BLOCK: lambda: PerBlockGranularity(block_size=block_size),
    }
    scales = _optional(scale_dtype, "scale_dtype", (DType.FP8_E8M0FNU,))
    codes = _member(DType, dtype, "dtype", _CODES)
    if scales is not None and not codes.value.startswith("fp"):
        raise WeightCompressionError(
            f"scale_dtype {scales.value} is for float8 and float4 only, dtype is {codes.value}; accepted: None"
        )
    spec = QuantizationSpec(
        dtype=_long_name(codes),
        qscheme=_member(QScheme, qscheme, "qscheme").value,
        granularity=granularities[_member(CompressionGranularity, granularity, "granularity", tuple(granularities))](),
        scale_dtype=None if scales is None else _long_name(scales),
    )
    return Pipeline(_quantize(spec, weight_num_threshold))


def palettization(
    lut_dtype: object,
    n_bits: int,
    granularity: object,
    group_size: int,
    cluster_dim: int,
    enable_per_channel_scale: bool,
    weight_num_threshold: int,
) -> Pipeline:
    """Build the pipeline `palettize-weights` for weights of more than `weight_num_threshold` elements.

    Raises the errors of `quantization`.
    """
    granularities: dict[CompressionGranularity, Callable[[], Any]] = {
        CompressionGranularity.PER_TENSOR: PerTensorGranularity,
        CompressionGranularity.PER_CHANNEL: lambda: PerGroupedChannelGranularity(group_size=1),
        CompressionGranularity.PER_GROUPED_CHANNEL: lambda: PerGroupedChannelGranularity(group_size=group_size),
    }
    kind = _member(CompressionGranularity, granularity, "granularity", tuple(granularities))
    entries = _optional(lut_dtype, "lut_dtype", _ENTRIES)
    spec = PalettizationSpec(
        n_bits=n_bits,
        granularity=granularities[kind](),
        lut_qspec=None if entries is None else QuantizationSpec(dtype=_long_name(entries)),
        cluster_dim=cluster_dim,
        enable_per_channel_scale=enable_per_channel_scale,
    )
    return Pipeline(_palettize(spec, weight_num_threshold))


def sparsification(
    target_sparsity: float | None,
    block_size: int | None,
    n_m_ratio: tuple[int, int] | None,
    quantize_dtype: object,
    palettize_nbits: int | None,
    weight_num_threshold: int,
) -> Pipeline:
    """Build the pipeline `prune-weights`, and the step that compresses kept elements, if any.

    Only weights of more than `weight_num_threshold` elements are compressed. Raises the errors of `quantization`.
    """
    if (target_sparsity is None) == (n_m_ratio is None):
        raise WeightCompressionError(
            f"target_sparsity is {target_sparsity!r} and n_m_ratio {n_m_ratio!r}; accepted: one of them, the other None"
        )
    if quantize_dtype is not None and palettize_nbits is not None:
        raise WeightCompressionError(
            f"quantize_dtype is {quantize_dtype!r} and palettize_nbits {palettize_nbits!r}; accepted: one of them"
        )
    state = {"*": _pruning_spec(target_sparsity, block_size, n_m_ratio)}
    config = MagnitudePrunerConfig(
        global_config=ModuleMagnitudePrunerConfig(op_state_spec=state), on_unmatched="ignore"
    )
    passes: list[Any] = [PruneWeights(config, weight_num_threshold=check_threshold(weight_num_threshold))]
    codes = _optional(quantize_dtype, "quantize_dtype", _ENTRIES)
    if codes is not None:
        spec = QuantizationSpec(dtype=_long_name(codes), granularity=PerChannelGranularity())
        passes.append(_quantize(spec, weight_num_threshold))
    if palettize_nbits is not None:
        if palettize_nbits not in _TABLE_BITS:
            accepted = ", ".join(map(str, _TABLE_BITS))
            raise WeightCompressionError(f"palettize_nbits is {palettize_nbits!r}; accepted: None, {accepted}")
        passes.append(_palettize(PalettizationSpec(n_bits=palettize_nbits), weight_num_threshold))
    return Pipeline(*passes)


def check_threshold(value: object) -> int:
    """Return `value` as a number of elements.

    Raises:
        WeightCompressionError: if it is not an integer of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WeightCompressionError(f"weight_num_threshold is {value!r}; it must be an integer of at least 0")
    return value


def _pruning_spec(sparsity: float | None, block_size: int | None, ratio: tuple[int, int] | None) -> PruningSpec:
    if ratio is not None:
        zeros, width = _ratio(ratio)
        if block_size is not None:
            raise WeightCompressionError(f"block_size is {block_size!r} with n_m_ratio; accepted: one of them")
        return PruningSpec(target_sparsity=zeros / width, pruning_scheme=NMStructured(m=width))
    if block_size is None:
        return PruningSpec(target_sparsity=sparsity, pruning_algo="magnitude_floor")
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 2:
        raise WeightCompressionError(f"block_size is {block_size!r}; accepted: None, or an integer of at least 2")
    scheme = BlockStructured(block_size=block_size)
    return PruningSpec(target_sparsity=sparsity, pruning_scheme=scheme, pruning_algo="magnitude_floor")


def _ratio(value: Any) -> tuple[int, int]:
    is_pair = isinstance(value, tuple | list) and len(value) == 2 and all(type(each) is int for each in value)
    if not is_pair or value[1] < 1 or not 0 <= value[0] <= value[1]:
        raise WeightCompressionError(
            f"n_m_ratio is {value!r}; accepted: None, or integers (n, m) with 0 <= n <= m and 0 < m"
        )
    return value[0], value[1]


def _quantize(spec: QuantizationSpec, threshold: int) -> QuantizeWeights:
    module = ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec={"*": spec})
    config = QuantizerConfig(global_config=module, on_unmatched="ignore")
    return QuantizeWeights(config, leave_indivisible=True, weight_num_threshold=check_threshold(threshold))


def _palettize(spec: PalettizationSpec, threshold: int) -> PalettizeWeights:
    module = ModuleKMeansPalettizerConfig(op_state_spec={"*": spec})
    config = KMeansPalettizerConfig(global_config=module, on_unmatched="ignore")
    return PalettizeWeights(config, leave_indivisible=True, weight_num_threshold=check_threshold(threshold))


def _long_name(dtype: DType) -> str:
    return dtype.value.replace("fp", "float")


def _optional(value: object, what: str, accepted: tuple[DType, ...]) -> DType | None:
    return None if value is None else _member(DType, value, what, accepted, "None, ")


def _member(kind: type[E], value: object, what: str, accepted: tuple[E, ...] | None = None, also: str = "") -> E:
    names = [each.value for each in accepted or kind]
    name = str(getattr(value, "value", value)).removeprefix("torch.").lower().replace("float", "fp")
    if name not in names:
        raise WeightCompressionError(
            f"{what} is {str(value)!r}{suggestion(str(value), names)}; accepted: {also}{', '.join(names)}"
        )
    return kind(name)

"""Compress the weights of a Core AI program that is converted already; the torch model is not needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphpress.backends.coreai.rewriting import ProgramBuilder, rewrite
from graphpress.converted_weights import (
    CompressionGranularity,
    DType,
    QScheme,
    QuantizedWeight,
    SparseWeight,
    Spec,
    StoredWeight,
    WeightCompressionError,
    check_threshold,
    palettization_spec,
    quantization_spec,
    stored,
)
from graphpress.passes.specs import ChannelStructured, PruningSpec, Unstructured

__all__ = [
    "CompressionGranularity",
    "DType",
    "QScheme",
    "WeightCompressionError",
    "palettize_weights",
    "quantize_weights",
    "sparsify_weights",
]


def quantize_weights(
    program: Any,
    dtype: DType | str = DType.INT8,
    granularity: CompressionGranularity | str = CompressionGranularity.PER_CHANNEL,
    qscheme: QScheme | str = QScheme.SYMMETRIC,
    block_size: int = 32,
    weight_num_threshold: int = 2048,
    in_place: bool = False,
) -> Any:
    """A Core AI program like `program`, whose weights are integers with scales.

    Weights are what convolutions, linear layers, products of matrices and embeddings read, floats of two or more axes.
    Those that blocks do not divide stay.

    Args:
        program: a Core AI `AIProgram`.
        dtype: of the codes.
        granularity: per tensor, per channel or per block.
        qscheme: ``symmetric`` has no zero points.
        block_size: elements of a block along the input channels.
        weight_num_threshold: weights of that many elements or fewer stay.
        in_place: whether `program` itself is changed.

    Raises:
        WeightCompressionError, SpecError: for options that are none.
        AssetError: when `program` is no Core AI program.
        ConversionError: when the program that was made is not valid.
    """
    return _rewritten(
        program, quantization_spec(dtype, granularity, qscheme, block_size), weight_num_threshold, in_place
    )


def palettize_weights(
    program: Any,
    n_bits: int = 4,
    granularity: CompressionGranularity | str = CompressionGranularity.PER_TENSOR,
    group_size: int = 32,
    lut_dtype: DType | str | None = None,
    enable_per_channel_scale: bool = False,
    weight_num_threshold: int = 2048,
    in_place: bool = False,
) -> Any:
    """A Core AI program like `program`, whose weights are indices into tables found by k-means.

    Args:
        program: as for `quantize_weights`.
        n_bits: bits of an index: 1, 2, 3, 4, 6 or 8.
        granularity: a table per tensor, or per group of output channels.
        group_size: output channels of a group.
        lut_dtype: of the entries: None leaves them floats; int8 or uint8.
        enable_per_channel_scale: whether each output channel has a scale.
        weight_num_threshold: weights of that many elements or fewer stay.
        in_place: whether `program` itself is changed.

    Raises: as `quantize_weights`.
    """
    spec = palettization_spec(n_bits, granularity, group_size, lut_dtype, enable_per_channel_scale)
    return _rewritten(program, spec, weight_num_threshold, in_place)


def sparsify_weights(
    program: Any,
    target_sparsity: float = 0.5,
    channel_axis: int | None = None,
    weight_num_threshold: int = 2048,
    in_place: bool = False,
) -> Any:
    """A Core AI program like `program`, whose weights have zeros and are stored sparse.

    Args:
        program: as for `quantize_weights`.
        target_sparsity: fraction of zeros, from 0 to 1: those elements of least magnitude.
        channel_axis: where given, whole channels along this axis become zeros, those of least norm.
        weight_num_threshold: weights of that many elements or fewer stay.
        in_place: whether `program` itself is changed.

    Raises: as `quantize_weights`; PruningError for weights that do not have the axis.
    """
    scheme = Unstructured() if channel_axis is None else ChannelStructured(axis=channel_axis)
    spec = PruningSpec(target_sparsity=target_sparsity, pruning_scheme=scheme)
    return _rewritten(program, spec, weight_num_threshold, in_place)


def _rewritten(program: Any, spec: Spec, threshold: int, in_place: bool) -> Any:
    def replace(tensor: Tensor, op_type: str, name: str) -> Callable[[ProgramBuilder], Any] | None:
        weight = stored(tensor, spec, op_type, name)
        return None if weight is None else lambda build: _made(build, weight, tensor.dtype)

    return rewrite(program, replace, check_threshold(threshold), in_place=in_place)


def _made(build: ProgramBuilder, weight: StoredWeight, dtype: torch.dtype) -> Any:
    """The ops of a stored weight; scales are in the dtype of the weight."""
    if isinstance(weight, SparseWeight):
        return build.sparse(weight.values, weight.mask)
    if isinstance(weight, QuantizedWeight):
        codes = build.constant(weight.codes, weight.dtype.bits)
        return build.scaled(codes, weight.scale.to(dtype), weight.zero_point, weight.codes, weight.dtype.bits)
    dense = build.table(weight.indices, weight.n_bits, weight.lut, weight.axis)
    if weight.scale is None:
        return dense
    return build.scaled(dense, weight.scale.to(dtype), weight.zero_point, weight.lut, weight.lut_type.bits)

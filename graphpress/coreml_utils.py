"""Compress the weights of a Core ML program that is converted already; the torch model is not needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from graphpress.backends.coreml import translations
from graphpress.backends.coreml.rewriting import rewrite
from graphpress.backends.coreml.targets import Target
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
    model: Any,
    dtype: DType | str = DType.INT8,
    granularity: CompressionGranularity | str = CompressionGranularity.PER_CHANNEL,
    qscheme: QScheme | str = QScheme.SYMMETRIC,
    block_size: int = 32,
    weight_num_threshold: int = 2048,
) -> Any:
    """A coremltools model like `model`, whose weights are integers with scales.

    Weights are what convolutions, linear layers, products of matrices and embeddings read, floats of two or more axes.
    Those that blocks do not divide stay. The model becomes one for iOS16 at least; for 4 bits or blocks, for iOS18.

    Args:
        model: a coremltools `MLModel` of an ML program, or the path of a package. It is not changed.
        dtype: of the codes.
        granularity: per tensor, per channel or per block.
        qscheme: ``symmetric`` has no zero points.
        block_size: elements of a block along the input channels.
        weight_num_threshold: weights of that many elements or fewer stay.

    Raises:
        WeightCompressionError, SpecError: for options that are none.
        AssetError: when `model` is no ML program, or its package is damaged.
        ConversionError: when coremltools refuses what was made.
    """
    spec = quantization_spec(dtype, granularity, qscheme, block_size)
    is_new = spec.n_bits < 8 or CompressionGranularity(granularity) is CompressionGranularity.PER_BLOCK
    return _rewritten(model, spec, weight_num_threshold, Target.iOS18 if is_new else Target.iOS16)


def palettize_weights(
    model: Any,
    n_bits: int = 4,
    granularity: CompressionGranularity | str = CompressionGranularity.PER_TENSOR,
    group_size: int = 32,
    lut_dtype: DType | str | None = None,
    enable_per_channel_scale: bool = False,
    weight_num_threshold: int = 2048,
) -> Any:
    """A coremltools model like `model`, whose weights are indices into tables found by k-means.

    The model becomes one for iOS16 at least; for groups, 3 bits, integer tables or scales, for iOS18.

    Args:
        model: as for `quantize_weights`.
        n_bits: bits of an index: 1, 2, 3, 4, 6 or 8.
        granularity: a table per tensor, or per group of output channels.
        group_size: output channels of a group.
        lut_dtype: of the entries: None leaves them floats; int8 or uint8.
        enable_per_channel_scale: whether each output channel has a scale.
        weight_num_threshold: weights of that many elements or fewer stay.

    Raises: as `quantize_weights`.
    """
    spec = palettization_spec(n_bits, granularity, group_size, lut_dtype, enable_per_channel_scale)
    grouped = CompressionGranularity(granularity) is not CompressionGranularity.PER_TENSOR
    is_new = grouped or n_bits == 3 or lut_dtype is not None or enable_per_channel_scale
    return _rewritten(model, spec, weight_num_threshold, Target.iOS18 if is_new else Target.iOS16)


def sparsify_weights(
    model: Any,
    target_sparsity: float = 0.5,
    channel_axis: int | None = None,
    weight_num_threshold: int = 2048,
) -> Any:
    """A coremltools model like `model`, whose weights have zeros and are stored sparse; for iOS16 at least.

    Args:
        model: as for `quantize_weights`.
        target_sparsity: fraction of zeros, from 0 to 1: those elements of least magnitude.
        channel_axis: where given, whole channels along this axis become zeros, those of least norm.
        weight_num_threshold: weights of that many elements or fewer stay.

    Raises: as `quantize_weights`; PruningError for weights that do not have the axis.
    """
    scheme = Unstructured() if channel_axis is None else ChannelStructured(axis=channel_axis)
    spec = PruningSpec(target_sparsity=target_sparsity, pruning_scheme=scheme)
    return _rewritten(model, spec, weight_num_threshold, Target.iOS16)


def _rewritten(model: Any, spec: Spec, threshold: int, lowest: Target) -> Any:
    def replace(tensor: Tensor, op_type: str, name: str) -> Callable[[Any], Any] | None:
        weight = stored(tensor, spec, op_type, name)
        return None if weight is None else lambda build: _made(build, weight, tensor)

    return rewrite(model, replace, check_threshold(threshold), lowest)


def _made(build: Any, weight: StoredWeight, tensor: Tensor) -> Any:
    """The ops of a stored weight; scales are in the dtype of the weight."""
    kind = tensor.numpy().dtype
    if isinstance(weight, SparseWeight):
        return translations.sparse_weight(build, weight.values.numpy(), weight.mask.numpy())
    scale = None if weight.scale is None else weight.scale.numpy().astype(kind)
    zero = None if weight.zero_point is None else _codes(weight.zero_point)
    if isinstance(weight, QuantizedWeight):
        return translations.quantized_weight(build, weight.codes.numpy(), scale, zero, weight.dtype.long_name)
    return translations.palettized_weight(build, weight.indices.numpy(), weight.lut.numpy(), weight.axis, scale, zero)


def _codes(zero_point: Tensor) -> np.ndarray[Any, Any]:
    return zero_point.round().numpy()

"""Compress the weights of a Core ML program that is converted already; the torch model is not needed.

The functions are those of `graphpress.coreai_utils`, by the same passes, over an ML program. The model becomes one for
the oldest target that has such weights, where it was for an older one.
"""

from __future__ import annotations

from typing import Any

from graphpress.backends.coreml.rewriting import rewrite
from graphpress.coreai_utils import CompressionGranularity, DType, QScheme, WeightCompressionError, pipelines

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
    qscheme: QScheme | str = QScheme.SYMMETRIC,
    granularity: CompressionGranularity | str = CompressionGranularity.PER_CHANNEL,
    block_size: int = 32,
    weight_num_threshold: int = 1024,
) -> Any:
    """A coremltools model like `model`, whose weights are integers with scales.

    Args:
        model: a coremltools `MLModel` of an ML program, or the path of a package. It is not changed.
        dtype: of the codes: int4, uint4, int8 or uint8.
        qscheme, granularity, block_size, weight_num_threshold: as of `graphpress.coreai_utils.quantize_weights`.

    Raises:
        WeightCompressionError, SpecError: for options that are none.
        LoweringError: for what no target can store.
        AssetError: when `model` is no ML program, or its package is damaged.
        ConversionError: when coremltools refuses what was made.
        QuantizationError: for a weight that is not finite.
    """
    return rewrite(model, pipelines.quantization(dtype, qscheme, granularity, block_size, weight_num_threshold))


def palettize_weights(
    model: Any,
    lut_dtype: DType | str | None = None,
    n_bits: int = 4,
    granularity: CompressionGranularity | str = CompressionGranularity.PER_TENSOR,
    group_size: int = 32,
    cluster_dim: int = 1,
    enable_per_channel_scale: bool = False,
    weight_num_threshold: int = 1024,
) -> Any:
    """A coremltools model like `model`, whose weights are indices into tables found by k-means.

    Args:
        model: as for `quantize_weights`.
        lut_dtype: of the entries: None leaves them floats; int8 or uint8.
        n_bits, granularity, group_size, cluster_dim, enable_per_channel_scale, weight_num_threshold: as of
            `graphpress.coreai_utils.palettize_weights`.

    Raises: as `quantize_weights`; PalettizationError for a weight that is not finite.
    """
    pipeline = pipelines.palettization(
        lut_dtype, n_bits, granularity, group_size, cluster_dim, enable_per_channel_scale, weight_num_threshold
    )
    return rewrite(model, pipeline)


def sparsify_weights(
    model: Any,
    target_sparsity: float | None = 0.5,
    block_size: int | None = None,
    n_m_ratio: tuple[int, int] | None = None,
    quantize_dtype: DType | str | None = None,
    palettize_nbits: int | None = None,
    weight_num_threshold: int = 1024,
) -> Any:
    """A coremltools model like `model`, whose weights have zeros and are stored sparse.

    Args:
        model: as for `quantize_weights`.
        target_sparsity, block_size, n_m_ratio, palettize_nbits, weight_num_threshold: as of
            `graphpress.coreai_utils.sparsify_weights`.
        quantize_dtype: where given, kept elements are codes with a scale for each output channel: int8 or uint8.

    Raises: as `quantize_weights`; PruningError for weights that cannot be pruned so.
    """
    pipeline = pipelines.sparsification(
        target_sparsity, block_size, n_m_ratio, quantize_dtype, palettize_nbits, weight_num_threshold
    )
    return rewrite(model, pipeline)

"""Compress the weights of a converted Core ML program, without the torch model.

The functions match those of `graphpress.coreai_utils` and run the same passes on an ML program. If the deployment
target does not support the compressed weights, it is raised to the oldest one that does.
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
    """Quantize the weights of a coremltools model to integers with scales.

    Args:
        model: a coremltools `MLModel` of an ML program, or the path of a package. It is not changed.
        dtype: type of the codes: int4, uint4, int8 or uint8.
        qscheme, granularity, block_size, weight_num_threshold: as in `graphpress.coreai_utils.quantize_weights`.

    Returns:
        the compressed `MLModel`.

    Raises:
        WeightCompressionError, SpecError: for invalid options.
        LoweringError: if no deployment target can store the weights.
        AssetError: if `model` is not an ML program, or its package is damaged.
        ConversionError: if coremltools rejects the compressed program.
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
    """Palettize the weights of a coremltools model by k-means.

    Args:
        model: as for `quantize_weights`.
        lut_dtype: type of the LUT entries: int8, uint8, or None for floats.
        n_bits, granularity, group_size, cluster_dim, enable_per_channel_scale, weight_num_threshold: as in
            `graphpress.coreai_utils.palettize_weights`.

    Raises: the errors of `quantize_weights`, and PalettizationError for a weight that is not finite.
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
    """Prune the weights of a coremltools model, which then stores them sparse.

    Args:
        model: as for `quantize_weights`.
        target_sparsity, block_size, n_m_ratio, palettize_nbits, weight_num_threshold: as in
            `graphpress.coreai_utils.sparsify_weights`.
        quantize_dtype: if set, the type of the codes of kept elements, with a scale per output channel: int8 or uint8.

    Raises: the errors of `quantize_weights`, and PruningError for weights that cannot be pruned as requested.
    """
    pipeline = pipelines.sparsification(
        target_sparsity, block_size, n_m_ratio, quantize_dtype, palettize_nbits, weight_num_threshold
    )
    return rewrite(model, pipeline)

"""Quantize, palettize and sparsify the weights of a Core AI program."""

from __future__ import annotations

from typing import Any

from graphpress.backends.coreai.rewriting import rewrite
from graphpress.coreai_utils import pipelines
from graphpress.coreai_utils.pipelines import CompressionGranularity, DType, QScheme


def quantize_weights(
    coreai_program: Any,
    dtype: DType | str = DType.INT8,
    qscheme: QScheme | str = QScheme.SYMMETRIC,
    granularity: CompressionGranularity | str = CompressionGranularity.PER_CHANNEL,
    block_size: int = 32,
    weight_num_threshold: int = 1024,
    scale_dtype: DType | str | None = None,
    in_place: bool = False,
) -> Any:
    """A Core AI program like `coreai_program`, whose weights are codes with scales, by the pass `quantize-weights`.

    Weights are what convolutions, linear layers, products of matrices and embeddings read, floats of two or more axes.
    Those that blocks do not divide stay, with a warning.

    Args:
        coreai_program: a Core AI `AIProgram`.
        dtype: of the codes.
        qscheme: ``symmetric`` has no zero points, and is what floats take.
        granularity: per tensor, per channel or per block.
        block_size: elements of a block along the input channels.
        weight_num_threshold: weights of that many elements or fewer stay.
        scale_dtype: of the scales: None is the dtype of the weight where it holds them, else float32; for float8 also
            fp8_e8m0fnu, which float4 always has.
        in_place: whether `coreai_program` itself is changed.

    Raises:
        WeightCompressionError, SpecError: for options that are none.
        AssetError: when `coreai_program` is no Core AI program.
        ConversionError: when the program that was made is not valid.
        QuantizationError: for a weight that is not finite.
    """
    pipeline = pipelines.quantization(dtype, qscheme, granularity, block_size, weight_num_threshold, scale_dtype)
    return rewrite(coreai_program, pipeline, in_place=in_place)


def palettize_weights(
    coreai_program: Any,
    lut_dtype: DType | str | None = None,
    n_bits: int = 4,
    granularity: CompressionGranularity | str = CompressionGranularity.PER_TENSOR,
    group_size: int = 32,
    cluster_dim: int = 1,
    enable_per_channel_scale: bool = False,
    weight_num_threshold: int = 1024,
    num_kmeans_workers: int = 1,
    enable_fast_kmeans_mode: bool = True,
    rounding_precision: int = 4,
    in_place: bool = False,
) -> Any:
    """A Core AI program like `coreai_program`, whose weights are indices into tables found by k-means, by the pass
    `palettize-weights`.

    Args:
        coreai_program: as for `quantize_weights`.
        lut_dtype: of the entries: None leaves them floats; int8, uint8, fp8_e4m3fn or fp8_e5m2.
        n_bits: bits of an index: 1, 2, 3, 4, 6 or 8.
        granularity: a table per tensor, per output channel, or per group of output channels.
        group_size: output channels of a group.
        cluster_dim: values of an entry, along the output channels.
        enable_per_channel_scale: whether each output channel has a scale.
        weight_num_threshold: weights of that many elements or fewer stay.
        num_kmeans_workers, enable_fast_kmeans_mode, rounding_precision: change nothing: weights are clustered as they
            are, in the process.
        in_place: whether `coreai_program` itself is changed.

    Raises: as `quantize_weights`; PalettizationError for a weight that is not finite.
    """
    pipeline = pipelines.palettization(
        lut_dtype, n_bits, granularity, group_size, cluster_dim, enable_per_channel_scale, weight_num_threshold
    )
    return rewrite(coreai_program, pipeline, in_place=in_place)


def sparsify_weights(
    coreai_program: Any,
    target_sparsity: float | None = 0.5,
    block_size: int | None = None,
    n_m_ratio: tuple[int, int] | None = None,
    quantize_dtype: DType | str | None = None,
    palettize_nbits: int | None = None,
    weight_num_threshold: int = 1024,
    in_place: bool = False,
) -> Any:
    """A Core AI program like `coreai_program`, whose weights have zeros and are stored sparse, by the pass
    `prune-weights`, and `quantize-weights` or `palettize-weights` after it.

    Args:
        coreai_program: as for `quantize_weights`.
        target_sparsity: fraction of zeros, from 0 to 1: of n elements the ``floor(n * target_sparsity)`` of least
            magnitude. None where `n_m_ratio` is given.
        block_size: where given, blocks of so many elements along axis 0 become zeros, those of least norm.
        n_m_ratio: where given, n of every m elements along axis 1 become zeros, those of least magnitude.
        quantize_dtype: where given, kept elements are codes with a scale for each output channel: int8, uint8,
            fp8_e4m3fn or fp8_e5m2. Symmetric uint8 has another code for zero than 0, so that all elements are stored.
        palettize_nbits: where given, kept elements are indices of so many bits into one table.
        weight_num_threshold: weights of that many elements or fewer stay.
        in_place: whether `coreai_program` itself is changed.

    Raises: as `quantize_weights`; PruningError for weights that cannot be pruned so.
    """
    pipeline = pipelines.sparsification(
        target_sparsity, block_size, n_m_ratio, quantize_dtype, palettize_nbits, weight_num_threshold
    )
    return rewrite(coreai_program, pipeline, in_place=in_place)

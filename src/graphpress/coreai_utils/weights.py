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
    """Quantize the weights of a Core AI program by the pass `quantize-weights`.

    Weights are float constants of two or more axes that convolutions, linear layers, matrix products and embeddings
    read. Those that do not divide into blocks are skipped with a warning.

    Args:
        coreai_program: a Core AI `AIProgram`.
        dtype: type of the codes.
        qscheme: ``symmetric``, without zero points, or asymmetric; float codes require ``symmetric``.
        granularity: per tensor, per channel or per block.
        block_size: elements of a block along the input channels.
        weight_num_threshold: weights of at most this many elements are not compressed.
        scale_dtype: type of the scales. None is the dtype of the weight if it can represent them, else float32; float8
            codes also accept fp8_e8m0fnu, which float4 codes always use.
        in_place: whether to change `coreai_program` itself.

    Returns:
        the compressed `AIProgram`.

    Raises:
        WeightCompressionError, SpecError: for invalid options.
        AssetError: if `coreai_program` is not a Core AI program.
        ConversionError: if the result is not a valid program.
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
    """Palettize the weights of a Core AI program by the pass `palettize-weights`.

    Weights become indices into lookup tables (LUTs), which k-means finds.

    Args:
        coreai_program: as for `quantize_weights`.
        lut_dtype: type of the LUT entries: int8, uint8, fp8_e4m3fn, fp8_e5m2, or None for floats.
        n_bits: bits of an index: 1, 2, 3, 4, 6 or 8.
        granularity: a LUT per tensor, per output channel, or per group of output channels.
        group_size: output channels of a group.
        cluster_dim: values per LUT entry, along the output channels.
        enable_per_channel_scale: whether each output channel has a scale.
        weight_num_threshold: weights of at most this many elements are not compressed.
        num_kmeans_workers, enable_fast_kmeans_mode, rounding_precision: have no effect; weights are clustered unrounded
            and in this process.
        in_place: whether to change `coreai_program` itself.

    Raises: the errors of `quantize_weights`, and PalettizationError for a weight that is not finite.
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
    """Prune the weights of a Core AI program, which then stores them sparse.

    The passes are `prune-weights` and, if requested, `quantize-weights` or `palettize-weights`.

    Args:
        coreai_program: as for `quantize_weights`.
        target_sparsity: fraction of zeros, from 0 to 1: of n elements, the ``floor(n * target_sparsity)`` of least
            magnitude become zero. None if `n_m_ratio` is set.
        block_size: if set, whole blocks of this many elements along axis 0 become zero, those of least norm.
        n_m_ratio: if set to (n, m), n of every m elements along axis 1 become zero, those of least magnitude.
        quantize_dtype: if set, the type of the codes of kept elements, with a scale per output channel: int8, uint8,
            fp8_e4m3fn or fp8_e5m2. Symmetric uint8 represents zero by a nonzero code, so all elements are stored.
        palettize_nbits: if set, kept elements are indices of this many bits into one LUT.
        weight_num_threshold: weights of at most this many elements are not compressed.
        in_place: whether to change `coreai_program` itself.

    Raises: the errors of `quantize_weights`, and PruningError for weights that cannot be pruned as requested.
    """
    pipeline = pipelines.sparsification(
        target_sparsity, block_size, n_m_ratio, quantize_dtype, palettize_nbits, weight_num_threshold
    )
    return rewrite(coreai_program, pipeline, in_place=in_place)

"""Compress the weights of a converted Core AI program, without the torch model."""

from graphpress.coreai_utils.pipelines import CompressionGranularity, DType, QScheme, WeightCompressionError
from graphpress.coreai_utils.weights import palettize_weights, quantize_weights, sparsify_weights

__all__ = [
    "CompressionGranularity",
    "DType",
    "QScheme",
    "WeightCompressionError",
    "palettize_weights",
    "quantize_weights",
    "sparsify_weights",
]

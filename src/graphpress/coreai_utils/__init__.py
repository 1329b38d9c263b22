"""Compress the weights of a Core AI program that is converted already; the torch model is not needed."""

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

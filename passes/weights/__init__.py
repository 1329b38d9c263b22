"""Compression of single weights (pruning, palettization, quantization, scaling), for passes and compressors."""

from graphpress.passes.weights.errors import (
    PalettizationError,
    PalettizationWarning,
    PruningError,
    PruningWarning,
    TooSmallError,
)
from graphpress.passes.weights.layout import Layout, layout_of
from graphpress.passes.weights.learned_tables import LearnedTables
from graphpress.passes.weights.palettize import assign, detected_mask, palettize, unfilled
from graphpress.passes.weights.palettized_weight import PalettizedWeight
from graphpress.passes.weights.prune import (
    MagnitudePruning,
    PrunedWeight,
    PruningAlgorithm,
    is_smaller_sparse,
    pruning_mask,
)
from graphpress.passes.weights.quantize import QuantizedWeight, quantize_weight
from graphpress.passes.weights.stored import StoredWeight

__all__ = [
    "Layout",
    "LearnedTables",
    "MagnitudePruning",
    "PalettizationError",
    "PalettizationWarning",
    "PalettizedWeight",
    "PrunedWeight",
    "PruningAlgorithm",
    "PruningError",
    "PruningWarning",
    "QuantizedWeight",
    "StoredWeight",
    "TooSmallError",
    "assign",
    "detected_mask",
    "is_smaller_sparse",
    "layout_of",
    "palettize",
    "pruning_mask",
    "quantize_weight",
    "unfilled",
]

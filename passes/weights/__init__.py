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
from graphpress.passes.weights.palettize import assign, kept_indices, palettize
from graphpress.passes.weights.palettized_weight import PalettizedWeight
from graphpress.passes.weights.prune import MagnitudePruning, PruningAlgorithm, is_smaller_sparse, pruning_mask

__all__ = [
    "Layout",
    "LearnedTables",
    "MagnitudePruning",
    "PalettizationError",
    "PalettizationWarning",
    "PalettizedWeight",
    "PruningAlgorithm",
    "PruningError",
    "PruningWarning",
    "TooSmallError",
    "assign",
    "is_smaller_sparse",
    "kept_indices",
    "layout_of",
    "palettize",
    "pruning_mask",
]

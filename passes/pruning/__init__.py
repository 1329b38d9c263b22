"""Pruning of one weight: which of its elements stay."""

from graphpress.passes.pruning.algorithm import PruningAlgorithm, pruning_mask
from graphpress.passes.pruning.errors import PruningError, PruningWarning
from graphpress.passes.pruning.magnitude import MagnitudePruning
from graphpress.passes.pruning.storage import is_smaller_sparse

__all__ = [
    "MagnitudePruning",
    "PruningAlgorithm",
    "PruningError",
    "PruningWarning",
    "is_smaller_sparse",
    "pruning_mask",
]

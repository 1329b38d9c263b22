"""Specs of pruning for one weight."""

from graphpress.passes.config import (
    BlockStructured,
    ChannelStructured,
    ConstantSparsitySchedule,
    NMStructured,
    PolynomialDecaySchedule,
    PruningScheme,
    PruningSpec,
    SparsitySchedule,
    Unstructured,
    default_weight_pruning_spec,
)
from graphpress.passes.weights import PruningAlgorithm

PruneImplBase = PruningAlgorithm
"""The base of pruning algorithms."""

__all__ = [
    "BlockStructured",
    "ChannelStructured",
    "ConstantSparsitySchedule",
    "NMStructured",
    "PolynomialDecaySchedule",
    "PruneImplBase",
    "PruningScheme",
    "PruningSpec",
    "SparsitySchedule",
    "Unstructured",
    "default_weight_pruning_spec",
]

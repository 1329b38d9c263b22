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

__all__ = [
    "BlockStructured",
    "ChannelStructured",
    "ConstantSparsitySchedule",
    "NMStructured",
    "PolynomialDecaySchedule",
    "PruningScheme",
    "PruningSpec",
    "SparsitySchedule",
    "Unstructured",
    "default_weight_pruning_spec",
]

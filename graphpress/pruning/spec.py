"""Specs of pruning: how one weight is pruned."""

from graphpress.passes.specs import (
    ChannelStructured,
    ConstantSparsitySchedule,
    PolynomialDecaySchedule,
    PruningScheme,
    PruningSpec,
    SparsitySchedule,
    Unstructured,
    default_weight_pruning_spec,
)

__all__ = [
    "ChannelStructured",
    "ConstantSparsitySchedule",
    "PolynomialDecaySchedule",
    "PruningScheme",
    "PruningSpec",
    "SparsitySchedule",
    "Unstructured",
    "default_weight_pruning_spec",
]

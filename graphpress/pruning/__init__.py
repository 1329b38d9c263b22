"""Pruning: zeros in weights."""

from graphpress.pruning.config import (
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    OpMagnitudePrunerConfig,
)
from graphpress.pruning.spec import (
    ChannelStructured,
    ConstantSparsitySchedule,
    PolynomialDecaySchedule,
    PruningSpec,
    Unstructured,
)

__all__ = [
    "ChannelStructured",
    "ConstantSparsitySchedule",
    "MagnitudePrunerConfig",
    "ModuleMagnitudePrunerConfig",
    "OpMagnitudePrunerConfig",
    "PolynomialDecaySchedule",
    "PruningSpec",
    "Unstructured",
]

"""Pruning: zeros in weights."""

from graphpress.pruning.config import (
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    OpMagnitudePrunerConfig,
)
from graphpress.pruning.errors import PruningError, PruningWarning
from graphpress.pruning.pruner import MagnitudePruner
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
    "MagnitudePruner",
    "MagnitudePrunerConfig",
    "ModuleMagnitudePrunerConfig",
    "OpMagnitudePrunerConfig",
    "PolynomialDecaySchedule",
    "PruningError",
    "PruningSpec",
    "PruningWarning",
    "Unstructured",
]

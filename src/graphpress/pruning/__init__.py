"""Pruning: setting weight elements to zero and storing weights sparse."""

from graphpress.passes.weights.errors import PruningError, PruningWarning
from graphpress.pruning.config import (
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    OpMagnitudePrunerConfig,
)
from graphpress.pruning.pruner import MagnitudePruner
from graphpress.pruning.spec import (
    BlockStructured,
    ChannelStructured,
    ConstantSparsitySchedule,
    NMStructured,
    PolynomialDecaySchedule,
    PruningSpec,
    Unstructured,
)

__all__ = [
    "BlockStructured",
    "ChannelStructured",
    "ConstantSparsitySchedule",
    "MagnitudePruner",
    "MagnitudePrunerConfig",
    "ModuleMagnitudePrunerConfig",
    "NMStructured",
    "OpMagnitudePrunerConfig",
    "PolynomialDecaySchedule",
    "PruningError",
    "PruningSpec",
    "PruningWarning",
    "Unstructured",
]

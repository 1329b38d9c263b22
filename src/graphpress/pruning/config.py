"""Configs of pruning."""

from graphpress.passes.configs import (
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    OpMagnitudePrunerConfig,
)
from graphpress.passes.specs import ConstantSparsitySchedule, PolynomialDecaySchedule

__all__ = [
    "ConstantSparsitySchedule",
    "MagnitudePrunerConfig",
    "ModuleMagnitudePrunerConfig",
    "OpMagnitudePrunerConfig",
    "PolynomialDecaySchedule",
]

"""Configs of pruning."""

from graphpress.passes.config import (
    ConstantSparsitySchedule,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    OpMagnitudePrunerConfig,
    PolynomialDecaySchedule,
)

__all__ = [
    "ConstantSparsitySchedule",
    "MagnitudePrunerConfig",
    "ModuleMagnitudePrunerConfig",
    "OpMagnitudePrunerConfig",
    "PolynomialDecaySchedule",
]

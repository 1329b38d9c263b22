"""Configs of pruning."""

from graphpress.passes.config import (
    ConstantSparsitySchedule,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    OpMagnitudePrunerConfig,
    PolynomialDecaySchedule,
    SparsitySchedule,
)

SparsityScheduleBase = SparsitySchedule
"""The base of sparsity schedules."""

__all__ = [
    "ConstantSparsitySchedule",
    "MagnitudePrunerConfig",
    "ModuleMagnitudePrunerConfig",
    "OpMagnitudePrunerConfig",
    "PolynomialDecaySchedule",
    "SparsityScheduleBase",
]

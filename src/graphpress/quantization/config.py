"""Configs of quantization."""

from graphpress.passes.config import (
    ExecutionMode,
    InvalidExecutionModeError,
    KVCacheQuantConfig,
    ModuleQuantizerConfig,
    OpQuantizerConfig,
    Placement,
    QATSchedule,
    QuantizerConfig,
    Selection,
)

__all__ = [
    "ExecutionMode",
    "InvalidExecutionModeError",
    "KVCacheQuantConfig",
    "ModuleQuantizerConfig",
    "OpQuantizerConfig",
    "Placement",
    "QATSchedule",
    "QuantizerConfig",
    "Selection",
]

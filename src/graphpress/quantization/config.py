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
]

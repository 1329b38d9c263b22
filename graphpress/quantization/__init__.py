"""Quantization: fewer bits for weights and activations."""

from graphpress.quantization.config import (
    ExecutionMode,
    InvalidExecutionModeError,
    ModuleQuantizerConfig,
    QuantizerConfig,
)
from graphpress.quantization.spec import QuantizationSpec

__all__ = [
    "ExecutionMode",
    "InvalidExecutionModeError",
    "ModuleQuantizerConfig",
    "QuantizationSpec",
    "QuantizerConfig",
]

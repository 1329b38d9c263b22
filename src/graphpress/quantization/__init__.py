"""Quantization of weights and activations."""

from graphpress.passes.config import WholeWeightsWarning
from graphpress.quantization.config import (
    ExecutionMode,
    InvalidExecutionModeError,
    ModuleQuantizerConfig,
    QuantizerConfig,
)
from graphpress.quantization.learnable import LearnableFakeQuantize
from graphpress.quantization.quantizer import Quantizer, UncalibratedWarning
from graphpress.quantization.spec import QuantizationSpec

__all__ = [
    "ExecutionMode",
    "InvalidExecutionModeError",
    "LearnableFakeQuantize",
    "ModuleQuantizerConfig",
    "QuantizationSpec",
    "Quantizer",
    "QuantizerConfig",
    "UncalibratedWarning",
    "WholeWeightsWarning",
]

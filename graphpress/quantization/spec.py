"""Specs of quantization: how one tensor is quantized."""

from graphpress.passes.specs import (
    PerBlockGranularity,
    PerChannelGranularity,
    PerTensorGranularity,
    QuantizationFormulation,
    QuantizationScheme,
    QuantizationSpec,
    default_activation_quantization_spec,
    default_weight_quantization_spec,
)

__all__ = [
    "PerBlockGranularity",
    "PerChannelGranularity",
    "PerTensorGranularity",
    "QuantizationFormulation",
    "QuantizationScheme",
    "QuantizationSpec",
    "default_activation_quantization_spec",
    "default_weight_quantization_spec",
]

"""Specs of quantization: how one tensor is quantized."""

from graphpress.passes.specs import (
    AdaptiveRounding,
    BiasCorrection,
    GPTQRounding,
    NearestRounding,
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
    "AdaptiveRounding",
    "BiasCorrection",
    "GPTQRounding",
    "NearestRounding",
    "PerBlockGranularity",
    "PerChannelGranularity",
    "PerTensorGranularity",
    "QuantizationFormulation",
    "QuantizationScheme",
    "QuantizationSpec",
    "default_activation_quantization_spec",
    "default_weight_quantization_spec",
]

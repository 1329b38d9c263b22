"""Specs of quantization: how one tensor is quantized, and the components that a spec names."""

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
from graphpress.quantization.calculators import (
    DynamicQParamsCalculator,
    GlobalMinMaxQParamsCalculator,
    LastRangeQParamsCalculator,
    MovingAverageQParamsCalculator,
    QParamsCalculatorBase,
    RunningRangeMixin,
    StatefulQParamsCalculatorBase,
    StatelessQParamsCalculatorBase,
    StaticQParamsCalculator,
)
from graphpress.quantization.fake_quantize import FakeQuantize, FakeQuantizeImplBase
from graphpress.quantization.histograms import (
    HistogramCalculatorBase,
    HistogramQParamsCalculator,
    PercentileQParamsCalculator,
)
from graphpress.quantization.ranges import MinMaxRangeCalculator, RangeCalculatorBase
from graphpress.quantization.squared_error import MseQParamsCalculator

__all__ = [
    "AdaptiveRounding",
    "BiasCorrection",
    "DynamicQParamsCalculator",
    "FakeQuantize",
    "FakeQuantizeImplBase",
    "GPTQRounding",
    "GlobalMinMaxQParamsCalculator",
    "HistogramCalculatorBase",
    "HistogramQParamsCalculator",
    "LastRangeQParamsCalculator",
    "MinMaxRangeCalculator",
    "MovingAverageQParamsCalculator",
    "MseQParamsCalculator",
    "NearestRounding",
    "PerBlockGranularity",
    "PerChannelGranularity",
    "PerTensorGranularity",
    "PercentileQParamsCalculator",
    "QParamsCalculatorBase",
    "QuantizationFormulation",
    "QuantizationScheme",
    "QuantizationSpec",
    "RangeCalculatorBase",
    "RunningRangeMixin",
    "StatefulQParamsCalculatorBase",
    "StatelessQParamsCalculatorBase",
    "StaticQParamsCalculator",
    "default_activation_quantization_spec",
    "default_weight_quantization_spec",
]

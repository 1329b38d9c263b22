"""Specs of quantization for one tensor, and the components that they name."""

from graphpress.passes.config import (
    AdaptiveRounding,
    BiasCorrection,
    GPTQRounding,
    Granularity,
    NearestRounding,
    PerBlockGranularity,
    PerChannelGranularity,
    PerTensorGranularity,
    QuantizationFormulation,
    QuantizationScheme,
    QuantizationSpec,
    default_activation_quantization_spec,
    default_weight_quantization_spec,
    resolve_block_sizes,
)
from graphpress.quantization.calculators import (
    DynamicQParamsCalculator,
    GlobalMinMaxQParamsCalculator,
    LastRangeQParamsCalculator,
    MinMaxRangeCalculator,
    MovingAverageQParamsCalculator,
    QParamsCalculatorBase,
    RangeCalculatorBase,
    RunningRangeMixin,
    StatefulQParamsCalculatorBase,
    StatelessQParamsCalculatorBase,
    StaticQParamsCalculator,
)
from graphpress.quantization.fake_quantize import FakeQuantize, FakeQuantizeImplBase, fp4_forward
from graphpress.quantization.histograms import (
    HistogramCalculatorBase,
    HistogramQParamsCalculator,
    MseQParamsCalculator,
    PercentileQParamsCalculator,
)
from graphpress.quantization.spec.factory import QuantizationComponentFactory

QuantizationGranularity = Granularity
"""The base of granularities, under the name of this technique."""

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
    "QuantizationComponentFactory",
    "QuantizationFormulation",
    "QuantizationGranularity",
    "QuantizationScheme",
    "QuantizationSpec",
    "RangeCalculatorBase",
    "RunningRangeMixin",
    "StatefulQParamsCalculatorBase",
    "StatelessQParamsCalculatorBase",
    "StaticQParamsCalculator",
    "default_activation_quantization_spec",
    "default_weight_quantization_spec",
    "fp4_forward",
    "resolve_block_sizes",
]

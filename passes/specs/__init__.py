"""Specs: what to do to one tensor. Frozen values, checked when they are made."""

from graphpress.passes.specs.axes import (
    base_op_type,
    default_block_axis,
    default_channel_axis,
    has_default_axis,
    weight_axis,
    weight_block_shape,
    with_default_axis,
)
from graphpress.passes.specs.components import (
    FAKE_QUANTIZERS,
    PRUNING_ALGORITHMS,
    QPARAM_CALCULATORS,
    RANGE_CALCULATORS,
    ComponentRegistry,
)
from graphpress.passes.specs.errors import ArgumentError, AxisError, BlockSizeError, SpecError
from graphpress.passes.specs.granularity import (
    Granularity,
    PerBlockGranularity,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
)
from graphpress.passes.specs.palettization import (
    DefaultTrainingSpec,
    PalettizationSpec,
    StraightThroughTrainingSpec,
    TableTrainingSpec,
    TrainingStrategySpec,
    default_weight_palettization_spec,
)
from graphpress.passes.specs.plain import plain
from graphpress.passes.specs.pruning import (
    ChannelStructured,
    ConstantSparsitySchedule,
    PolynomialDecaySchedule,
    PruningScheme,
    PruningSpec,
    SparsitySchedule,
    Unstructured,
    default_weight_pruning_spec,
)
from graphpress.passes.specs.quantization import (
    QuantizationFormulation,
    QuantizationScheme,
    QuantizationSpec,
    default_activation_quantization_spec,
    default_weight_quantization_spec,
)
from graphpress.passes.specs.rounding import (
    AdaptiveRounding,
    BiasCorrection,
    GPTQRounding,
    NearestRounding,
    WeightRounding,
)

__all__ = [
    "FAKE_QUANTIZERS",
    "PRUNING_ALGORITHMS",
    "QPARAM_CALCULATORS",
    "RANGE_CALCULATORS",
    "AdaptiveRounding",
    "ArgumentError",
    "AxisError",
    "BiasCorrection",
    "BlockSizeError",
    "ChannelStructured",
    "ComponentRegistry",
    "ConstantSparsitySchedule",
    "DefaultTrainingSpec",
    "GPTQRounding",
    "Granularity",
    "NearestRounding",
    "PalettizationSpec",
    "PerBlockGranularity",
    "PerChannelGranularity",
    "PerGroupedChannelGranularity",
    "PerTensorGranularity",
    "PolynomialDecaySchedule",
    "PruningScheme",
    "PruningSpec",
    "QuantizationFormulation",
    "QuantizationScheme",
    "QuantizationSpec",
    "SparsitySchedule",
    "SpecError",
    "StraightThroughTrainingSpec",
    "TableTrainingSpec",
    "TrainingStrategySpec",
    "Unstructured",
    "WeightRounding",
    "base_op_type",
    "default_activation_quantization_spec",
    "default_block_axis",
    "default_channel_axis",
    "default_weight_palettization_spec",
    "default_weight_pruning_spec",
    "default_weight_quantization_spec",
    "has_default_axis",
    "plain",
    "weight_axis",
    "weight_block_shape",
    "with_default_axis",
]

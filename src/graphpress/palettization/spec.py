"""Specs of palettization for one weight."""

from graphpress.passes.config import (
    DefaultTrainingSpec,
    Granularity,
    PalettizationSpec,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    StraightThroughTrainingSpec,
    TableTrainingSpec,
    TrainingStrategySpec,
    default_weight_palettization_spec,
)

PalettizationGranularity = Granularity
"""The base of granularities, under the name of this technique."""

__all__ = [
    "DefaultTrainingSpec",
    "PalettizationGranularity",
    "PalettizationSpec",
    "PerGroupedChannelGranularity",
    "PerTensorGranularity",
    "StraightThroughTrainingSpec",
    "TableTrainingSpec",
    "TrainingStrategySpec",
    "default_weight_palettization_spec",
]

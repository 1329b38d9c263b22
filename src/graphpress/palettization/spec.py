"""Specs of palettization for one weight."""

from graphpress.passes.config import (
    DefaultTrainingSpec,
    PalettizationSpec,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    StraightThroughTrainingSpec,
    TableTrainingSpec,
    TrainingStrategySpec,
    default_weight_palettization_spec,
)

__all__ = [
    "DefaultTrainingSpec",
    "PalettizationSpec",
    "PerGroupedChannelGranularity",
    "PerTensorGranularity",
    "StraightThroughTrainingSpec",
    "TableTrainingSpec",
    "TrainingStrategySpec",
    "default_weight_palettization_spec",
]

"""Palettization: weights as indices into small tables."""

from graphpress.palettization.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.palettization.errors import PalettizationError, PalettizationWarning
from graphpress.palettization.palettizer import KMeansPalettizer
from graphpress.palettization.spec import PalettizationSpec

__all__ = [
    "KMeansPalettizer",
    "KMeansPalettizerConfig",
    "ModuleKMeansPalettizerConfig",
    "PalettizationError",
    "PalettizationSpec",
    "PalettizationWarning",
]

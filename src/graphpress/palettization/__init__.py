"""Palettization: weights as indices into small lookup tables (LUTs)."""

from graphpress.palettization.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.palettization.palettizer import KMeansPalettizer
from graphpress.palettization.spec import PalettizationSpec
from graphpress.passes.weights.errors import PalettizationError, PalettizationWarning

__all__ = [
    "KMeansPalettizer",
    "KMeansPalettizerConfig",
    "ModuleKMeansPalettizerConfig",
    "PalettizationError",
    "PalettizationSpec",
    "PalettizationWarning",
]

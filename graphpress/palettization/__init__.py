"""Palettization: weights as indices into small tables."""

from graphpress.palettization.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.palettization.spec import PalettizationSpec

__all__ = ["KMeansPalettizerConfig", "ModuleKMeansPalettizerConfig", "PalettizationSpec"]

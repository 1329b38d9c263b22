"""Errors and warnings of palettization."""

from graphpress.passes.palettization import PalettizationError, PalettizationWarning

__all__ = ["PalettizationError", "PalettizationWarning"]

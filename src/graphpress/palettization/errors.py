"""Errors and warnings of palettization."""

from graphpress.passes.weights import PalettizationError, PalettizationWarning

__all__ = ["PalettizationError", "PalettizationWarning"]

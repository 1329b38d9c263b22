"""Errors and warnings of compressing one weight."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class PalettizationError(GraphpressError, ValueError):
    """A weight that cannot be palettized."""


class TooSmallError(PalettizationError):
    """A weight with fewer elements than its lookup table has entries, which would grow."""


class PalettizationWarning(UserWarning):
    """Weights that the config selects but that were not palettized."""


class PruningError(GraphpressError, ValueError):
    """A weight that cannot be pruned as configured, or a model that cannot run."""


class PruningWarning(UserWarning):
    """Weights that the config selects but that were not pruned, or that a format cannot represent exactly."""


class QuantizationError(GraphpressError, ValueError):
    """A model that cannot be quantized as configured."""

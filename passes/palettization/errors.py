"""Errors and warnings of palettization."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class PalettizationError(GraphpressError, ValueError):
    """A weight that cannot be palettized; the message names it."""


class TooSmallError(PalettizationError):
    """A weight with fewer elements than its lookup table has entries: storing it as it is takes less space."""


class PalettizationWarning(UserWarning):
    """Weights that were left whole though the config speaks of them."""

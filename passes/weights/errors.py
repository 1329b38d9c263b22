"""Errors and warnings of compressing one weight."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class PalettizationError(GraphpressError, ValueError):
    """A weight that cannot be palettized; the message names it."""


class TooSmallError(PalettizationError):
    """A weight with fewer elements than its lookup table has entries: storing it as it is takes less space."""


class PalettizationWarning(UserWarning):
    """Weights that were left whole though the config speaks of them."""


class PruningError(GraphpressError, ValueError):
    """A weight that cannot be pruned as asked, or a model that cannot be run; the message names it."""


class PruningWarning(UserWarning):
    """Weights that were left whole though the config speaks of them, or that a form cannot hold exactly."""


class QuantizationError(GraphpressError, ValueError):
    """A model that cannot be quantized as its config says; the message names the layers."""

"""Errors and warnings of compressing one weight."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class PalettizationError(GraphpressError, ValueError):
    """A weight that cannot be palettized."""


class TooSmallError(PalettizationError):
    """A weight with fewer elements than its lookup table has entries: storing it as it is takes less space.

    Attributes:
        parameter: name of the tensor.
        explanation: which numbers were compared.
    """

    def __init__(self, parameter: str, explanation: str):
        super().__init__(parameter, explanation)
        self.parameter, self.explanation = parameter, explanation

    def __str__(self) -> str:
        return f"{self.parameter} {self.explanation}"


class PalettizationWarning(UserWarning):
    """Weights that were skipped though the config means them."""


class PruningError(GraphpressError, ValueError):
    """A weight that cannot be pruned as configured, or a model that cannot run."""


class PruningWarning(UserWarning):
    """Weights that were skipped though the config means them, or that a form cannot hold exactly."""


class QuantizationError(GraphpressError, ValueError):
    """A model that cannot be quantized as configured."""

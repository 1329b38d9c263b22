"""Errors of the backends."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError
from graphpress.passes.weights.errors import PalettizationError, QuantizationError


class MissingDependencyError(GraphpressError, ImportError):
    """A package that a backend needs is not installed; the message names the extra to install."""


class ConversionError(GraphpressError):
    """A model that cannot be exported, or that the converter rejects."""


class AssetError(GraphpressError):
    """A saved asset that is missing, damaged, or cannot be written."""


class ModelInputError(GraphpressError, ValueError):
    """Inputs that do not fit the signature of a loaded model."""


class ExecutionError(GraphpressError, RuntimeError):
    """The runtime failed to load or run an asset."""


class LoweringError(GraphpressError):
    """A compressed value without a stored form in the backend; the message names the node and what is accepted."""


class CoreMLExportError(LoweringError, PalettizationError, QuantizationError):
    """Weights, palettized or quantized, that the metadata of coremltools cannot describe."""

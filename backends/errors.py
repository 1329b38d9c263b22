"""The errors of the backends."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class MissingDependencyError(GraphpressError, ImportError):
    """A package a backend needs is not installed; the message names the extra that brings it."""


class ConversionError(GraphpressError):
    """A model that cannot be exported, or that the converter refuses."""


class AssetError(GraphpressError):
    """A saved asset that is missing, damaged, or cannot be written."""


class ModelInputError(GraphpressError, ValueError):
    """Inputs that do not fit the signature of a loaded model."""


class ExecutionError(GraphpressError, RuntimeError):
    """The runtime failed while it loaded or ran an asset."""


class LoweringError(GraphpressError):
    """A compressed value that a backend has no stored form for; the message names the node and what is accepted."""

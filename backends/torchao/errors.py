"""The errors of the torchao backend."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class TorchaoError(GraphpressError, ValueError):
    """Something that torchao's flow cannot express."""


class MissingDependencyError(GraphpressError, ImportError):
    """torchao is not installed; the message names the extra that brings it."""

"""Errors and warnings of pruning."""

from graphpress.passes.weights import PruningError, PruningWarning

__all__ = ["PruningError", "PruningWarning"]

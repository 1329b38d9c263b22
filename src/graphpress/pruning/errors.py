"""Errors and warnings of pruning."""

from graphpress.passes.pruning import PruningError, PruningWarning

__all__ = ["PruningError", "PruningWarning"]

"""Errors and warnings of pruning."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class PruningError(GraphpressError, ValueError):
    """A weight that cannot be pruned as asked, or a model that cannot be run; the message names it."""


class PruningWarning(UserWarning):
    """Weights that were left whole though the config speaks of them, or that a form cannot hold exactly."""

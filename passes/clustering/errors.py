"""The error of the clustering engine."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class ClusteringError(GraphpressError):
    """Values, weights or settings that cannot be clustered: what was wrong and what is accepted."""

"""Errors and warnings of the search for mixed precision."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class SearchError(GraphpressError, ValueError):
    """A search that cannot be made as asked; the message says what is accepted."""


class SearchWarning(UserWarning):
    """Something a user should know about measurements: candidates that do not fit, what compressors warned about."""

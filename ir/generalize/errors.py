"""Why a graph could not be shown to hold at every batch."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class NotProven(GraphpressError):
    """The graph may depend on the batch of the example; the message says by what.

    Attributes:
        asked: True when the model asks for the size of its batch, so that it may.
    """

    def __init__(self, message: str, *, asked: bool = False):
        super().__init__(message)
        self.asked = asked


class Clash(Exception):
    """The model cannot have these batches apart: two must be one, or one is a number."""

    def __init__(self, symbols: tuple[str, ...], message: str):
        super().__init__(message)
        self.symbols = symbols

"""Errors of the quantization passes."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class QuantizationError(GraphpressError, ValueError):
    """A model that cannot be quantized as its config says; the message names the layers."""

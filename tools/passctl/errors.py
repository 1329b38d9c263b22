"""The errors of passctl itself: what was typed makes no sense."""

from __future__ import annotations

from graphpress.ir.errors import GraphpressError


class PassctlError(GraphpressError):
    """Something on the command line that cannot be done."""


class ModelArgumentError(PassctlError):
    """A MODEL that names nothing that can be loaded."""


class InputDataError(PassctlError):
    """Example or calibration data that cannot be read, or does not fit the model."""

"""Hooks that observe the steps of a run."""

from __future__ import annotations

from graphpress.passes.framework.debugging.bundles import ReproducerOnFailure
from graphpress.passes.framework.numerics import Numerics
from graphpress.passes.framework.standard_hooks import (
    Bisect,
    Dump,
    Hook,
    Progress,
    Statistics,
    StepState,
    Timing,
    Verify,
)

__all__ = [
    "Bisect",
    "Dump",
    "Hook",
    "Numerics",
    "Progress",
    "ReproducerOnFailure",
    "Statistics",
    "StepState",
    "Timing",
    "Verify",
]

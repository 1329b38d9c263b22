"""Hooks that watch the steps of a run: one small thing each."""

from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.hooks.bisect import Bisect
from graphpress.passes.framework.hooks.dump import Dump
from graphpress.passes.framework.hooks.numerics import Numerics
from graphpress.passes.framework.hooks.progress import Progress, StepState
from graphpress.passes.framework.hooks.reproducer import ReproducerOnFailure
from graphpress.passes.framework.hooks.statistics import Statistics
from graphpress.passes.framework.hooks.timing import Timing
from graphpress.passes.framework.hooks.verify import Verify

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

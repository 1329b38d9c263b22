"""Hooks that watch the steps of a run: one small thing each."""

from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.hooks.verify import Verify

__all__ = ["Hook", "Verify"]

"""Suspend cyclic garbage collection while large graphs are built.

Graphs contain many live reference cycles. Every full collection traverses all of them and frees nothing, so building a
graph would take more than linear time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def collector_held() -> Iterator[None]:
    """Suspend automatic garbage collection, and restore its state on exit.

    May be nested.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def holding_collector(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: run the function under `collector_held`."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with collector_held():
            return function(*args, **kwargs)

    return run

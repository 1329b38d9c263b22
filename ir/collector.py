"""Hold the garbage collector back while something large is built.

Graphs are full of cycles that stay alive; every full collection walks all of them and frees nothing, so building a
graph would cost more than its length.
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
    """No automatic collection inside; as before outside, after an exception too. Nests."""
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

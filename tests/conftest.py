"""Property tests try the same examples in every run; `--hypothesis-profile=default` draws new ones.

A test that leaves many files open fails: the ones after it in its process would have no handles left.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

MOST_LEFT_OPEN = 50
"""Handles that a test may leave open: of modules that it imports, of libraries, of its fixtures."""


@pytest.fixture(autouse=True)
def _leaves_no_files_open() -> Iterator[None]:
    before = _open_handles()
    yield
    if _open_handles() > before + MOST_LEFT_OPEN:
        gc.collect()
        left = _open_handles() - before
        assert left <= MOST_LEFT_OPEN, f"the test left {left} handles open"


def _open_handles() -> int:
    """The number of open handles of the process; 0 where the system does not list them."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0

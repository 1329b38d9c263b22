"""Compilation of kernels through numba.

Only kernel modules import this module, and they are imported at first use, so that importing
`graphpress.passes.clustering` does not load numba.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def kernel(function: FunctionT) -> FunctionT:
    """Compile `function` at its first call from Python, and cache the machine code.

    It runs without the interpreter lock. Sums are never reordered (no fast-math), so results do not depend on the
    vector width of the machine. The cache is beside the source, or in the user's cache folder if the package is
    read-only; if neither is writable, code is compiled once per process.
    """
    return _cached(numba.njit(nogil=True, error_model="numpy")(function))


def helper(function: FunctionT) -> FunctionT:
    """Compile `function` for calls from kernels only, without a Python entry point, which takes time to compile."""
    entry = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return _cached(numba.njit(nogil=True, error_model="numpy", **entry)(function))


def _cached(dispatcher: Any) -> Any:
    with suppress(RuntimeError):  # numba finds no folder to cache in
        dispatcher._cache = _PackageCache(dispatcher.py_func)
    return dispatcher


class _PackageCache(FunctionCache):
    """A cache that expires when any kernel module changes, since machine code includes called functions.

    Numba's own cache checks the caller's file only.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _Index(
            cache_path=self._cache_path, filename_base=self._impl.filename_base, source_stamp=SOURCES
        )


class _Index(IndexDataCacheFile):
    """A cache index that is empty if it refers to types of another version."""

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except (ImportError, AttributeError):
            return {}


def digest(folder: Path) -> str:
    """Return a hash of the Python files in `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


SOURCES = digest(Path(__file__).parent)

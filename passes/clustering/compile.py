"""The one place that compiles: `kernel` turns a plain function into machine code through numba.

Only the kernel modules import this one, and they are imported at first use, so that importing
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
    """Compile `function` for callers in Python at its first call, and cache the machine code.

    It runs without the interpreter lock. Sums are never reordered (no fast-math), so results do not depend on the
    vector width of the machine. The cache lies beside the source, or in the user's cache folder where the package is
    read-only; where neither can be written, code is compiled once per process.
    """
    return _cached(numba.njit(nogil=True, error_model="numpy")(function))


def helper(function: FunctionT) -> FunctionT:
    """Compile `function` for kernels only: without an entry from Python, which takes time to compile."""
    entry = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return _cached(numba.njit(nogil=True, error_model="numpy", **entry)(function))


def _cached(dispatcher: Any) -> Any:
    with suppress(RuntimeError):  # numba finds no folder to cache in
        dispatcher._cache = _PackageCache(dispatcher.py_func)
    return dispatcher


class _PackageCache(FunctionCache):
    """A cache that expires when any kernel changes: machine code holds that of the functions it calls.

    Numba itself looks at the caller's file alone.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _Index(
            cache_path=self._cache_path, filename_base=self._impl.filename_base, source_stamp=SOURCES
        )


class _Index(IndexDataCacheFile):
    """An index that is empty where it speaks of types that are gone: one of another version, left in place by it."""

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except (ImportError, AttributeError):
            return {}


def digest(folder: Path) -> str:
    """Return a hash of the Python files of `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


SOURCES = digest(Path(__file__).parent)

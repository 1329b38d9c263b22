"""Results on fake tensors that an export leaves in the `functools` caches of a model's code.

A function under `functools.lru_cache` that runs during an export returns fake tensors, which the cache then returns to
the user's next call of the model. Caches in which a run left any are cleared; others keep their results.

Finding the caches of a process takes a traversal of all its objects (30 to 60 ms), so it is repeated only after imports
and for models of new classes.
"""

from __future__ import annotations

import functools
import gc
import operator
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress, repeat
from typing import Any
from weakref import WeakSet

import torch
from attrs import define, field
from torch._subclasses.fake_tensor import FakeTensor

_CACHE = functools._lru_cache_wrapper
_NOT_USER_CODE = frozenset({"graphpress", "torch", "sympy"})
_DEPTH = 4


@contextmanager
def fake_results_dropped(module: torch.nn.Module) -> Iterator[None]:
    """Clear, on exit, the caches that got results on fake tensors or symbolic sizes, as in an export of `module`."""
    before = [(cache, cache.cache_info().misses) for cache in _known.caches_for(module)]
    try:
        yield
    finally:
        for cache, misses in before:
            if cache.cache_info().misses != misses and _holds_fakes(gc.get_referents(cache), _DEPTH):
                cache.cache_clear()


@define(eq=False)
class _KnownCaches:
    """The caches of the process at the last traversal, and what was loaded then."""

    caches: WeakSet[Any] = field(factory=WeakSet)
    classes: WeakSet[type] = field(factory=WeakSet)
    modules: int = 0

    def caches_for(self, module: torch.nn.Module) -> list[Any]:
        """Return the caches that code of `module` may use."""
        classes = {type(submodule) for submodule in module.modules()}
        new = [cls for cls in classes if not cls.__module__.startswith("torch.") and cls not in self.classes]
        if new or len(sys.modules) != self.modules:
            self.caches = WeakSet(_all_caches())
            self.classes.update(new)
            self.modules = len(sys.modules)
        return list(self.caches)


_known = _KnownCaches()


def _all_caches() -> Iterator[Any]:
    objects = gc.get_objects()
    for cache in compress(objects, map(operator.is_, map(type, objects), repeat(_CACHE))):
        if (getattr(cache, "__module__", None) or "").partition(".")[0] not in _NOT_USER_CODE:
            yield cache


def _holds_fakes(objects: Any, depth: int) -> bool:
    for each in objects:
        if isinstance(each, FakeTensor | torch.SymInt | torch.SymFloat | torch.SymBool):
            return True
        if isinstance(each, dict):
            each = [*each, *each.values()]
        if isinstance(each, list | tuple | set | frozenset) and depth and _holds_fakes(each, depth - 1):
            return True
    return False

"""Caching of results while the tensors they were computed from are unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


class Remembered(Generic[R]):
    """Cache of one result, valid for the same tensor objects with the same data at the same versions.

    Nothing is cached during tracing, and the cache is not pickled or copied.
    """

    def __init__(self) -> None:
        self._tensors: tuple[Tensor, ...] = ()
        self._key: Any = None
        self._result: R | None = None

    def get(self, tensors: Sequence[Tensor], compute: Callable[[], R], key: Any = None) -> R:
        """Return the result for `tensors` and `key`, calling `compute` if they changed since the last call."""
        if torch.compiler.is_compiling():
            return compute()
        full_key = (key, *(_state(tensor) for tensor in tensors))
        same = len(tensors) == len(self._tensors) and all(map(_is, tensors, self._tensors))
        if not same or full_key != self._key:
            self._result = compute()
            self._tensors, self._key = tuple(tensors), full_key
        return self._result  # type: ignore[return-value]

    def forget(self) -> None:
        """Clear the cache."""
        self._tensors, self._key, self._result = (), None, None

    def __reduce__(self) -> Any:
        return Remembered, ()


def _is(a: Tensor, b: Tensor) -> bool:
    return a is b


def _state(tensor: Tensor) -> tuple[Any, ...]:
    """Return what changes with the data: the version in place, the rest by an assignment to `data`, as in `half()`."""
    try:
        storage = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # tensors of function transforms have none
        storage = 0
    return -1 if tensor.is_inference() else tensor._version, tensor.dtype, storage


def outside_inference(compute: Callable[[], R]) -> R:
    """Run `compute` without gradients and outside inference mode, so that its result can be cached for every mode."""
    with torch.inference_mode(False), torch.no_grad():
        return compute()

"""Inputs and results of clustering."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from graphpress.ir.errors import GraphpressError

if TYPE_CHECKING:
    import torch

    Floats = np.ndarray | torch.Tensor


class ClusteringError(GraphpressError):
    """Values, weights or settings that cannot be clustered."""


@frozen(eq=False)
class Clusters:
    """A lookup table and the index of the nearest entry for each value, as numpy arrays.

    Attributes:
        centroids: float32 [k] in ascending order, or [k, d] for vectors. If there are fewer than k distinct values, the
            last centroid is repeated, and no index points at a repetition.
        indices: uint8, shaped like the values ([n] for vectors [n, d]).
        sse: the sum of (weighted) squared distances of the values to their centroids, in float64.
    """

    centroids: np.ndarray
    indices: np.ndarray
    sse: float


@frozen(eq=False)
class GroupedClusters:
    """One lookup table per group: `Clusters` with a leading group axis.

    Attributes:
        centroids: float32 [groups, k].
        indices: uint8, shaped like the values [groups, n].
        sse: float64 [groups].
    """

    centroids: np.ndarray
    indices: np.ndarray
    sse: np.ndarray


MOST_CLUSTERS = 256


@frozen(eq=False)
class HalfFloats:
    """Values of a 16-bit dtype as bit patterns, of which there are at most 65,536.

    Attributes:
        codes: uint16, shaped like the values.
        is_bfloat16: True for bfloat16, False for float16.
    """

    codes: np.ndarray
    is_bfloat16: bool

    @property
    def decoded(self) -> np.ndarray:
        """Return the value of each bit pattern, float32 [65536]."""
        return self._decode(np.arange(1 << 16, dtype=np.uint16))

    @property
    def floats(self) -> np.ndarray:
        """Return the values as float32."""
        return self._decode(self.codes)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        if not self.is_bfloat16:
            return codes.view(np.float16).astype(np.float32)
        bits = codes.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)


def read_values(values: Floats, what: str = "values") -> np.ndarray | HalfFloats:
    """Return `values` as C-ordered float32, or as `HalfFloats` for 16-bit dtypes; a view if possible."""
    array, is_bfloat16 = _as_numpy(values, what)
    if is_bfloat16 or array.dtype == np.float16:
        return HalfFloats(np.ascontiguousarray(array).view(np.uint16), is_bfloat16)
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is rejected below
        return np.ascontiguousarray(array, dtype=np.float32)


def read_floats(values: Floats, what: str) -> np.ndarray:
    """Return `values` as C-ordered float32."""
    read = read_values(values, what)
    return read.floats if isinstance(read, HalfFloats) else read


def read_weights(weights: Floats | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return `weights` as float32 of `shape`, checked to be finite and not negative."""
    if weights is None:
        return None
    read = read_floats(weights, "weights")
    if read.shape != shape:
        raise ClusteringError(f"weights have shape {read.shape}, expected {shape}")
    if read.size and not (np.isfinite(read.max()) and read.min() >= 0):
        raise ClusteringError("weights must be finite and not negative")
    return read


def check_clusters(k: int) -> None:
    """Raise unless `k` is an integer from 1 to 256, so that indices fit uint8."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= MOST_CLUSTERS:
        raise ClusteringError(f"k is {k!r}; it must be an integer from 1 to {MOST_CLUSTERS}")


def non_finite(bad: int, size: int, what: str = "values") -> ClusteringError:
    """Return the error for `bad` of `size` values that are NaN or infinite."""
    return ClusteringError(f"{bad} of {size} {what} are NaN, infinite or beyond float32; all must be finite")


def _as_numpy(values: Floats, what: str) -> tuple[np.ndarray, bool]:
    """Return an array, and whether it holds bfloat16 bit patterns."""
    loaded = sys.modules.get("torch")  # a caller with tensors has imported torch
    if loaded is not None and isinstance(values, loaded.Tensor):
        if values.device.type != "cpu":
            raise ClusteringError(f"{what} are on device {str(values.device)!r}; move them to the CPU first")
        if not values.is_floating_point():
            raise ClusteringError(f"{what} have dtype {values.dtype}; a floating dtype is needed")
        tensor: torch.Tensor = values.detach()
        if tensor.dtype == loaded.bfloat16:
            return tensor.contiguous().view(loaded.int16).numpy().view(np.uint16), True
        if tensor.dtype not in (loaded.float16, loaded.float32, loaded.float64):
            tensor = tensor.to(loaded.float32)
        return tensor.numpy(), False
    array = np.asarray(values)
    if array.dtype.name == "bfloat16":  # from the ml_dtypes package
        return array.view(np.uint16), True
    if array.dtype.kind != "f":
        raise ClusteringError(f"{what} have dtype {array.dtype}; a floating dtype is needed")
    return array, False

"""Near-optimal scalar k-means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from graphpress.passes.clustering.inputs import (
    MOST_CLUSTERS,
    ClusteringError,
    Clusters,
    GroupedClusters,
    HalfFloats,
    check_clusters,
    non_finite,
    read_floats,
    read_values,
    read_weights,
)

if TYPE_CHECKING:
    from graphpress.passes.clustering.inputs import Floats


Snap = Callable[[np.ndarray], np.ndarray]
"""Maps tables of centroids, float32 [groups, k], to the nearest storable tables of the same shape."""

MOST_SNAPS = 4
# For at least this many 16-bit values in a group, counting is faster than sorting.
LEAST_COUNTED = 1 << 17


def cluster_scalar(values: Floats, k: int, weights: Floats | None = None, snap: Snap | None = None) -> Clusters:
    """Cluster `values` of any shape into `k` scalar centroids of least squared error.

    See `cluster_groups` for the arguments and errors; `snap` is called with a table of shape [1, k].
    """
    shape = tuple(values.shape)
    row = values.reshape(1, -1)
    row_weights = None if weights is None else weights.reshape(1, -1)
    grouped = cluster_groups(row, k, row_weights, snap)
    return Clusters(grouped.centroids[0], grouped.indices.reshape(shape), float(grouped.sse[0]))


def cluster_groups(values: Floats, k: int, weights: Floats | None = None, snap: Snap | None = None) -> GroupedClusters:
    """Cluster each row of `values` [groups, n] into `k` scalar centroids of least squared error.

    The values are sorted once; an exact dynamic program over micro-bins gives a start, which Lloyd steps on the sorted
    values improve. Squared errors are within 0.1% of the exact optimum, typically within 0.01%. Deterministic. 16-bit
    values are clustered by their counts.

    Args:
        values: [groups, n], any floating dtype; finite.
        k: number of centroids per group, 1 to 256.
        weights: importance of each value, [groups, n], not negative. A group whose weights are all zero is clustered
            without weights.
        snap: maps the tables to storable tables; values are then assigned to the snapped centroids, and the error is
            that of the snapped tables.

    Returns:
        Tables [groups, k], indices [groups, n] and errors [groups].

    Raises:
        ClusteringError: if values are not finite or not [groups, n], or weights are negative or of another shape.
    """
    check_clusters(k)
    if len(values.shape) != 2:
        raise ClusteringError(f"values have shape {tuple(values.shape)}; groups are rows: [groups, n]")
    read = read_values(values)
    importance = read_weights(weights, tuple(values.shape))
    groups, size = values.shape
    if groups == 0 or size == 0:
        return GroupedClusters(np.zeros((groups, k), np.float32), np.zeros((groups, size), np.uint8), np.zeros(groups))
    if isinstance(read, HalfFloats):
        if size >= LEAST_COUNTED:
            return _cluster_counted(read, k, importance, snap)
        read = read.floats
    ordered, ordered_weights = _sorted_rows(read, importance)
    centroids, errors = _fit(ordered, ordered_weights, k, snap)
    del ordered, ordered_weights
    return GroupedClusters(centroids, assign_groups(read, centroids), errors)


def _cluster_counted(values: HalfFloats, k: int, weights: np.ndarray | None, snap: Snap | None) -> GroupedClusters:
    """Cluster rows of 16-bit values by their counts."""
    from graphpress.passes.clustering import scalar_kernels

    decoded = values.decoded
    finite = np.isfinite(decoded)
    order = np.argsort(decoded, kind="stable")
    order = order[finite[order]].astype(np.uint16)
    if weights is None:
        weights = np.empty((len(values.codes), 0), np.float32)
    distinct, masses, bad = scalar_kernels.count_rows(values.codes, weights, order, decoded)
    if bad:
        raise non_finite(bad, values.codes.size)
    centroids, errors = _fit(distinct, masses, k, snap)
    every_value = np.where(finite, decoded, np.float32(0))
    tables = assign_groups(np.tile(every_value, (len(centroids), 1)), centroids)
    return GroupedClusters(centroids, scalar_kernels.look_up_rows(values.codes, tables), errors)


def _sorted_rows(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return each row in ascending order, and the weights in the same order ([groups, 0] without weights)."""
    from graphpress.passes.clustering import scalar_kernels  # loads numba

    if weights is None:
        ordered = scalar_kernels.sort_rows(values.view(np.uint32)).view(np.float32)
        ordered_weights = np.empty((len(values), 0), np.float32)
    else:
        ordered = values.copy()
        ordered_weights = weights.copy()
        scalar_kernels.sort_weighted_rows(ordered.view(np.uint32), ordered_weights)
    if not np.isfinite(ordered[:, [0, -1]]).all():
        raise non_finite(int(np.count_nonzero(~np.isfinite(ordered))), ordered.size)
    return ordered, ordered_weights


def _fit(ordered: np.ndarray, weights: np.ndarray, k: int, snap: Snap | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the tables [groups, k] of sorted rows and their errors [groups]."""
    from graphpress.passes.clustering import scalar_kernels

    centroids = scalar_kernels.fit_rows(ordered, weights, k)
    if snap is None:
        return centroids, scalar_kernels.error_rows(ordered, weights, centroids)
    centroids = _snapped(snap, centroids)
    errors = scalar_kernels.error_rows(ordered, weights, centroids)
    for _ in range(MOST_SNAPS):
        candidate = _snapped(snap, scalar_kernels.mean_rows(ordered, weights, centroids))
        candidate_errors = scalar_kernels.error_rows(ordered, weights, candidate)
        if not candidate_errors.sum() < errors.sum():
            break
        centroids, errors = candidate, candidate_errors
    return centroids, errors


def _snapped(snap: Snap, centroids: np.ndarray) -> np.ndarray:
    """Return the snapped tables in ascending order, after checking them."""
    snapped = np.array(snap(centroids.copy()), dtype=np.float32)
    if snapped.shape != centroids.shape or not np.isfinite(snapped).all():
        raise ClusteringError(
            f"snap returned tables of shape {snapped.shape} with "
            f"{np.count_nonzero(~np.isfinite(snapped))} entries that are not finite; "
            f"finite tables of shape {centroids.shape} are needed"
        )
    return np.sort(snapped, axis=1)


def assign_scalar(values: Floats, centroids: Floats) -> np.ndarray:
    """Return the index of the nearest centroid for each value, uint8 shaped like `values`.

    Ties go to the lower index, exactly: distances are compared without rounding.

    Args:
        values: any shape and floating dtype; finite.
        centroids: finite, k from 1 to 256; [k] in any order, repetitions allowed, or [groups, k], one row for each row
            of `values` [groups, n].

    Raises:
        ClusteringError: if values or centroids are not finite, or shapes do not agree.
    """
    tables = read_floats(centroids, "centroids")
    rows = read_floats(values, "values")
    if tables.ndim not in (1, 2) or not 1 <= tables.shape[-1] <= MOST_CLUSTERS:
        accepted = f"[k] or [groups, k] with k from 1 to {MOST_CLUSTERS}"
        raise ClusteringError(f"centroids have shape {tables.shape}; {accepted} is needed")
    if tables.ndim == 2 and (rows.ndim != 2 or len(rows) != len(tables)):
        raise ClusteringError(
            f"values have shape {rows.shape} and centroids {tables.shape}; one row of values per table is needed"
        )
    for array, what in ((tables, "centroids"), (rows, "values")):
        if array.size and not np.isfinite([array.min(), array.max()]).all():  # avoids a mask array
            raise non_finite(int(np.count_nonzero(~np.isfinite(array))), array.size, what)
    if tables.ndim == 1:
        return assign_groups(rows.reshape(1, -1), tables[None]).reshape(rows.shape)
    return assign_groups(rows, tables)


def assign_groups(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the indices, uint8 [groups, n], of finite float32 `values` [groups, n] in tables [groups, k]."""
    if values.size == 0:
        return np.zeros(values.shape, np.uint8)
    from graphpress.passes.clustering import scalar_kernels  # loads numba

    labels = np.argsort(centroids, axis=1, kind="stable").astype(np.uint8)
    ascending = np.take_along_axis(centroids, labels.astype(np.intp), axis=1)
    return scalar_kernels.assign_rows(values, values.view(np.uint32), ascending, labels)

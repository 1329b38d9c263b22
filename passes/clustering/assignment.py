"""Assignment of values to the nearest of given centroids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphpress.passes.clustering.errors import ClusteringError
from graphpress.passes.clustering.inputs import MOST_CLUSTERS, non_finite, read_floats

if TYPE_CHECKING:
    from graphpress.passes.clustering.inputs import Floats


def assign_scalar(values: Floats, centroids: Floats) -> np.ndarray:
    """Return for each value the index of the nearest centroid, uint8 shaped like `values`.

    Args:
        values: any shape and floating dtype; finite.
        centroids: [k] in any order, with or without repetitions; or [groups, k], for `values` [groups, n] each
            row by its own table. Finite, k from 1 to 256.

    Ties go to the lower index, exactly: distances are compared without rounding.

    Raises:
        ClusteringError: for values or centroids that are not finite, or shapes that do not go together.
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
        if array.size and not np.isfinite([array.min(), array.max()]).all():  # without an array of answers
            raise non_finite(int(np.count_nonzero(~np.isfinite(array))), array.size, what)
    if tables.ndim == 1:
        return assign_groups(rows.reshape(1, -1), tables[None]).reshape(rows.shape)
    return assign_groups(rows, tables)


def assign_groups(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the indices, uint8 [groups, n], of finite float32 `values` [groups, n] in tables [groups, k]."""
    if values.size == 0:
        return np.zeros(values.shape, np.uint8)
    from graphpress.passes.clustering import scalar_kernels as kernels  # loads numba

    labels = np.argsort(centroids, axis=1, kind="stable").astype(np.uint8)
    ascending = np.take_along_axis(centroids, labels.astype(np.intp), axis=1)
    return kernels.assign_rows(values, values.view(np.uint32), ascending, labels)

"""What clustering returns."""

from __future__ import annotations

import numpy as np
from attrs import frozen


@frozen(eq=False)
class Clusters:
    """A lookup table and the entry nearest to each value, as numpy arrays.

    Attributes:
        centroids: float32 [k] in ascending order, or [k, d] for vectors. Always k entries: with fewer distinct
            values than k the last centroid is repeated, and no index points at a repetition.
        indices: uint8, shaped like the values ([n] for vectors [n, d]).
        sse: the sum of (weight times) squared distances of the values to their centroids, in float64.
    """

    centroids: np.ndarray
    indices: np.ndarray
    sse: float


@frozen(eq=False)
class GroupedClusters:
    """One lookup table per group; as `Clusters` with a leading axis of groups.

    Attributes:
        centroids: float32 [groups, k].
        indices: uint8, shaped like the values [groups, n].
        sse: float64 [groups].
    """

    centroids: np.ndarray
    indices: np.ndarray
    sse: np.ndarray

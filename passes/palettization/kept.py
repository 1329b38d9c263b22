"""Palettized weights of which only the kept elements have indices."""

from __future__ import annotations

from torch import Tensor

from graphpress.passes.palettization.weight import PalettizedWeight
from graphpress.passes.pruning import is_smaller_sparse


def kept_indices(weight: PalettizedWeight, mask: Tensor) -> tuple[Tensor, Tensor] | None:
    """Indices of kept elements, 1-D, and their table, where that takes less space than all indices; else None.

    What one table gives is put in the places of a mask. With a table for each group, or a zero point, all elements have
    indices, zeros those of an entry that is zero.
    """
    one_table = all(extent == 1 for extent in weight.lut.shape[:-2])
    is_symmetric = weight.zero_point is None or not bool(weight.zero_point.any())
    if not one_table or not is_symmetric or weight.minval is not None or not is_smaller_sparse(mask, weight.n_bits):
        return None
    return weight.indices[mask], weight.lut.reshape(1, *weight.lut.shape[-2:])

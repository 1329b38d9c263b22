"""Pruned weights that are palettized: their zeros stay zeros."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graphpress.passes.palettization import PalettizationError, PalettizedWeight
from graphpress.passes.pruning import is_smaller_sparse
from graphpress.passes.specs import TableTrainingSpec
from graphpress.pruning.restoring import mask_beside
from graphpress.weight_plan import PlannedWeight


def mask_of(weight: PlannedWeight) -> Tensor | None:
    """Where a pruned weight is kept; None for other weights."""
    place = weight.places[0]
    return mask_beside(place.module, place.name)


def check_pruned(planned: Sequence[PlannedWeight]) -> None:
    """Refuse to train tables of pruned weights, whose zeros would move.

    Raises:
        PalettizationError: naming the weights.
    """
    moving = [
        weight.name
        for weight in planned
        if isinstance(weight.spec.training_strategy_spec, TableTrainingSpec) and mask_of(weight) is not None
    ]
    if moving:
        raise PalettizationError(
            f"{', '.join(moving)}: pruned, and the zero in the table of a pruned weight stays; training_strategy_spec "
            "is TableTrainingSpec, accepted: DefaultTrainingSpec, StraightThroughTrainingSpec"
        )


def sparse_parts(weight: PalettizedWeight, mask: Tensor) -> dict[str, Tensor] | None:
    """Indices of kept elements, 1-D, with their table, where that takes less space than all indices; else None.

    Core AI puts what one table gives in the places of a mask. With a table for each group, or a zero point, all
    elements have indices, zeros those of an entry that is zero.
    """
    one_table = all(extent == 1 for extent in weight.lut.shape[:-2])
    is_symmetric = weight.zero_point is None or not bool(weight.zero_point.any())
    if not one_table or not is_symmetric or weight.minval is not None or not is_smaller_sparse(mask, weight.n_bits):
        return None
    return {"indices": weight.indices[mask], "lut": weight.lut.reshape(1, *weight.lut.shape[-2:])}

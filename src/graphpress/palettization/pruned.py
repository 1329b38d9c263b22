"""Pruned weights that are palettized: their zeros stay zeros."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graphpress.modules.planning import PlannedWeight
from graphpress.passes.config import TableTrainingSpec
from graphpress.passes.weights import PalettizationError, PalettizedWeight, kept_indices
from graphpress.pruning.restoring import mask_beside


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
    """What `kept_indices` gives, by the names of buffers."""
    kept = kept_indices(weight, mask)
    return None if kept is None else dict(zip(("indices", "lut"), kept, strict=True))

"""Put palettized weights into modules, and account for those that there are none of."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from graphpress.modules.forms import set_form
from graphpress.modules.planning import PlannedWeight
from graphpress.palettization.forms import FakePalettized, tensors_of
from graphpress.palettization.jobs import Found
from graphpress.palettization.learning import start_learning
from graphpress.passes.config import BlockSizeError
from graphpress.passes.weights import PalettizationError, PalettizationWarning, PalettizedWeight


def installable(
    planned: Sequence[PlannedWeight], found: Sequence[Found], leave_indivisible: bool | None
) -> list[tuple[PlannedWeight, PalettizedWeight]]:
    """The weights that became palettized ones. The others are left whole with one warning, or are an error.

    Raises:
        PalettizationError: for weights that groups or vectors do not divide, see `KMeansPalettizer.prepare`.
    """
    pairs = list(zip(planned, found, strict=True))
    done = [(weight, result) for weight, result in pairs if isinstance(result, PalettizedWeight)]
    indivisible = [(weight, result) for weight, result in pairs if isinstance(result, BlockSizeError)]
    refused = [
        result
        for weight, result in indivisible
        if leave_indivisible is False or (leave_indivisible is None and (weight.is_specific or not done))
    ]
    if refused:
        raise PalettizationError(
            f"{len(refused)} weights cannot be cut as the config says (prepare(leave_indivisible=True) leaves them "
            f"whole):{_lines(refused)}"
        )
    left = [result for _, result in pairs if not isinstance(result, PalettizedWeight)]
    if left:
        warnings.warn(f"{len(left)} weights are left whole:{_lines(left)}", PalettizationWarning, stacklevel=3)
    return done


def install(weight: PlannedWeight, palettized: PalettizedWeight) -> None:
    """Let every module that has this parameter read the palettized one. They share its buffers.

    Raises:
        PalettizationError: when a module has something under the name of a buffer.
    """
    schedule = getattr(weight.module_config, "pat_schedule", None)
    start = 0 if schedule is None else schedule.enable_fake_palettize
    trained: dict[str, nn.Parameter | Tensor] = {}
    for place in weight.places:
        for part, tensor in tensors_of(palettized).items():
            name = f"{place.name}_{part}"
            if hasattr(place.module, name) and place.module._buffers.get(name) is not tensor:
                raise PalettizationError(f"module {place.path!r} has {name!r} already, where the {part} would go")
            place.module._buffers[name] = tensor
            place.module._non_persistent_buffers_set.discard(name)
        form = FakePalettized(place.name, weight.spec, weight.op_type, palettized.axis, palettized.dtype, start=start)
        trained = trained or form.trained_parts(place.module, palettized)
        start_learning(place.module, place.name, trained)
        set_form(place.module, place.name, form)


def _lines(errors: Sequence[object]) -> str:
    return "".join(f"\n  {error}" for error in errors)

"""Put palettized weights into modules."""

from __future__ import annotations

from torch import Tensor, nn

from graphpress.modules.forms import set_form
from graphpress.modules.planning import PlannedWeight
from graphpress.palettization.forms import FakePalettized, tensors_of
from graphpress.palettization.learning import start_learning
from graphpress.passes.weights import PalettizationError, PalettizedWeight


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

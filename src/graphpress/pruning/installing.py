"""Put pruned weights into modules."""

from __future__ import annotations

import torch
from torch import nn

from graphpress.modules.forms import set_form
from graphpress.modules.planning import PlannedWeight
from graphpress.passes.weights import PruningError, pruning_mask
from graphpress.pruning.forms import MASK, SPARSITY, FakePruned


def install(weight: PlannedWeight) -> None:
    """Let every module that has this parameter read it behind one mask.

    Raises:
        PruningError: for weights that cannot be pruned, and where a module has something under the name of a buffer.
    """
    mask = pruning_mask(weight.parameter, weight.spec, name=weight.name)
    sparsity = torch.tensor(weight.spec.target_sparsity, dtype=torch.float64)
    schedule = getattr(weight.module_config, "sparsity_schedule", None)
    for place in weight.places:
        for part, tensor in ((MASK, mask), (SPARSITY, sparsity)):
            name = f"{place.name}_{part}"
            if hasattr(place.module, name) and place.module._buffers.get(name) is not tensor:
                raise PruningError(f"module {place.path!r} has {name!r} already, where the {part} would go")
            place.module._buffers[name] = tensor
            place.module._non_persistent_buffers_set.discard(name)
        set_form(place.module, place.name, FakePruned(place.name, weight.spec, schedule))


def uninstall(module: nn.Module, form: FakePruned) -> None:
    """Take the mask off `module`."""
    for part in (MASK, SPARSITY):
        module._buffers.pop(f"{form.name}_{part}", None)

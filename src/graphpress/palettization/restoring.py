"""From the form for coremltools back to stored tables, so that a palettized model can be compressed further."""

from __future__ import annotations

import copy

from torch import nn

from graphpress.backends.coreai import register
from graphpress.backends.coreml.metadata import PREFIX
from graphpress.modules.forms import set_form
from graphpress.palettization.forms import StoredTable, tensors_of
from graphpress.passes.weights import PalettizationError, PalettizedWeight

_KEPT = "_graphpress_palettized"


def keep(module: nn.Module, parameter: str, weight: PalettizedWeight) -> None:
    """Let `module` remember the tables that its float `parameter` was made from. They are in no state dict."""
    module.__dict__[_KEPT] = {**module.__dict__.get(_KEPT, {}), parameter: weight}


def with_tables(model: nn.Module) -> nn.Module:
    """`model`, or, where it describes palettized parameters for coremltools, a copy of it that stores their tables.

    Raises:
        PalettizationError: when parameters are described whose tables are gone, as in a model that was built anew and
            filled from a state dict.
    """
    described = {
        (path, name.split("/")[1])
        for path, module in model.named_modules()
        for name in module._buffers
        if name.startswith(f"{PREFIX}/") and name.endswith("/lut")
    }
    if not described:
        return model
    kept = {
        (path, name): weight
        for path, module in model.named_modules()
        for name, weight in module.__dict__.get(_KEPT, {}).items()
    }
    lost = sorted(".".join(filter(None, where)) for where in described - kept.keys())
    if lost:
        raise PalettizationError(
            f"{', '.join(lost)}: described as palettized for coremltools, but their tables are gone; compress the "
            "model that KMeansPalettizer.finalize(...) returned"
        )
    register()
    memo = {id(model.get_submodule(path)._parameters[name]): None for path, name in kept}
    restored = copy.deepcopy(model, memo)
    for (path, name), weight in kept.items():
        module = restored.get_submodule(path)
        for buffer in [b for b in module._buffers if b.startswith(f"{PREFIX}/{name}/")]:
            del module._buffers[buffer]
        module.__dict__.pop(_KEPT, None)
        module._parameters.pop(name, None)
        for part, tensor in tensors_of(weight).items():
            codes = tensor.round().to(weight.lut.dtype) if part == "zero_point" else tensor
            module._buffers[f"{name}_{part}"] = codes
        set_form(module, name, StoredTable(name, weight.axis, weight.dtype))
    restored._buffers.pop(f"{PREFIX}/metadata_version", None)
    return restored

"""Conversion of finalized models to the forms that further compressors take."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from graphpress.backends.coreai import register
from graphpress.backends.coreml.metadata import described_tables, forget, forget_version, is_pruned_only
from graphpress.modules.coreai_form import KEPT, StoredParameter, StoredParts, parts_of
from graphpress.modules.forms import drop_form, forms_of
from graphpress.modules.masks import MASK, forget_pruned, pruned_parameters, remember_pruned
from graphpress.modules.metadata_form import forget_tables, remembered_tables
from graphpress.passes.weights import PalettizationError, PrunedWeight, StoredWeight


def with_stored_parameters(model: nn.Module) -> nn.Module:
    """Return a copy of `model` that stores LUTs and kept elements, or `model` if it has no coremltools metadata.

    Raises:
        PalettizationError: if parameters are described as palettized but their lookup tables are missing, as in a new
            model that was filled from a state dict.
    """
    lost = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in described_tables(module)
        if name not in remembered_tables(module)
    ]
    if lost:
        raise PalettizationError(
            f"{', '.join(sorted(lost))}: described as palettized for coremltools, but their LUTs are missing; compress "
            "the model that KMeansPalettizer.finalize(...) returned"
        )
    described = list(_described(model))
    if not described:
        return model
    register()
    restored = copy.deepcopy(model, {id(parameter): None for _, _, parameter, _ in described})
    made: dict[int, StoredParts] = {}
    for path, name, parameter, weight in described:
        module = restored.get_submodule(path)
        if id(parameter) not in made:
            made[id(parameter)] = parts_of(weight, name, parameter.requires_grad)
        _forget(module, name)
        module._parameters.pop(name, None)
        made[id(parameter)].put_into(module, name)
    forget_version(restored)
    return restored


def with_masked_floats(model: nn.Module) -> nn.Module:
    """Convert pruned parameters of `model` to floats with zeros and mask buffers, in place, and return `model`."""
    floats: dict[int, nn.Parameter] = {}
    masks: dict[int, Tensor] = {}
    for module in model.modules():
        for name in [name for name in pruned_parameters(module) if is_pruned_only(module, name)]:
            parameter = module._parameters[name]
            assert parameter is not None
            module._buffers[f"{name}_{MASK}"] = masks.setdefault(id(parameter), parameter.detach() != 0)
            forget(module, name)
        for name, form in list(forms_of(module).items()):
            if not isinstance(form, StoredParameter) or not form.is_pruned_only:
                continue
            values = module._parameters[form.parts[KEPT]]
            assert values is not None
            if id(values) not in floats:
                dense = form.value(module).detach().clone()
                floats[id(values)] = nn.Parameter(dense, requires_grad=values.requires_grad)
            drop_form(module, name)
            del module._parameters[form.parts[KEPT]]
            module._parameters[name] = floats[id(values)]
            remember_pruned(module, name)
    forget_version(model)
    return model


def _described(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter, StoredWeight]]:
    """Yield module path, name, floats and stored weight of each parameter with metadata."""
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if (weight := remembered_tables(module).get(name)) is not None:
                yield path, name, parameter, weight
            elif name in pruned_parameters(module) and is_pruned_only(module, name):
                yield path, name, parameter, PrunedWeight(parameter.detach(), parameter.detach() != 0)


def _forget(module: nn.Module, name: str) -> None:
    forget(module, name)
    forget_tables(module, name)
    forget_pruned(module, name)

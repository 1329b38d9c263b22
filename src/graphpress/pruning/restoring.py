"""From finalized pruned models back to floats and masks, so that they can be compressed further."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from graphpress.backends.coreml.metadata import PREFIX
from graphpress.modules.forms import drop_form, forms_of, set_form
from graphpress.pruning.forms import MASK, VALUES, StoredSparse

_KEPT = "_graphpress_pruned"


def keep(module: nn.Module, parameter: str) -> None:
    """Let `module` remember that its float `parameter` is described as pruned."""
    module.__dict__[_KEPT] = (*module.__dict__.get(_KEPT, ()), parameter)


def mask_beside(module: nn.Module, parameter: str) -> Tensor | None:
    """Where a pruned parameter is kept, in a model of floats and masks; None for other parameters."""
    return module._buffers.get(f"{parameter}_{MASK}") if parameter in module.__dict__.get(_KEPT, ()) else None


def with_masked_floats(model: nn.Module) -> nn.Module:
    """`model`, changed in place: its pruned parameters are floats with zeros, and have masks beside them."""
    floats: dict[int, nn.Parameter] = {}
    masks: dict[int, Tensor] = {}
    for _, module, name in _described(model):
        parameter = module._parameters[name]
        assert parameter is not None
        module._buffers[f"{name}_{MASK}"] = masks.setdefault(id(parameter), parameter.detach() != 0)
        _forget_description(module, name)
    for module in model.modules():
        for name, form in list(forms_of(module).items()):
            if not isinstance(form, StoredSparse):
                continue
            values, _ = form.parts(module)
            if id(values) not in floats:
                dense = form.value(module).detach().clone()
                floats[id(values)] = nn.Parameter(dense, requires_grad=values.requires_grad)
            drop_form(module, name)
            del module._parameters[f"{name}_{VALUES}"]
            module._parameters[name] = floats[id(values)]
            keep(module, name)
    return model


def with_kept_elements(model: nn.Module) -> nn.Module:
    """`model`, or, where it describes pruned parameters for coremltools, a copy that stores what is kept of them."""
    if not _described(model):
        return model
    model = copy.deepcopy(model)
    parts: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for _, module, name in _described(model):
        parameter = module._parameters.pop(name)
        assert parameter is not None
        if id(parameter) not in parts:
            mask = parameter.detach() != 0
            values = nn.Parameter(parameter.detach()[mask], requires_grad=parameter.requires_grad)
            parts[id(parameter)] = values, mask
        module._parameters[f"{name}_{VALUES}"], module._buffers[f"{name}_{MASK}"] = parts[id(parameter)]
        _forget_description(module, name)
        del module.__dict__[_KEPT]
        set_form(module, name, StoredSparse(name))
    return model


def _described(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    return [
        (path, module, name)
        for path, module in model.named_modules()
        for name in module.__dict__.get(_KEPT, ())
        if f"{PREFIX}/{name}/compression_type" in module._buffers
        and torch.equal(module.get_buffer(f"{PREFIX}/{name}/compression_type"), torch.tensor([1]))
    ]


def _forget_description(module: nn.Module, name: str) -> None:
    for buffer in [each for each in module._buffers if each.startswith(f"{PREFIX}/{name}/")]:
        del module._buffers[buffer]

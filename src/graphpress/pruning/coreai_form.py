"""A pruned model in the form that `torch.export` and the Core AI converter keep sparse."""

from __future__ import annotations

from os import PathLike

from torch import nn

from graphpress.backends.coreai import register
from graphpress.modules.forms import set_form
from graphpress.modules.mapping import Mapped
from graphpress.passes.weights import is_smaller_sparse
from graphpress.pruning.finalizing import PrunedModel
from graphpress.pruning.forms import MASK, VALUES, StoredSparse


def stored_for_coreai(prepared: nn.Module, mmap_dir: str | PathLike[str] | None = None) -> nn.Module:
    """A copy of `prepared` that stores kept elements and masks; where these take more space, floats with zeros.

    Raises:
        MissingDependencyError: when the Core AI converter is not installed.
    """
    register()
    copied = PrunedModel(prepared)
    mapped = Mapped(mmap_dir)
    kept: dict[int, nn.Parameter] = {}
    dense: dict[int, nn.Parameter] = {}
    for path, module, form in copied.places:
        mask, name = copied.mask(form), form.qualified_name(path)
        pruned = copied.pruned(module, form)
        if not is_smaller_sparse(mask, pruned.element_size() * 8):
            if id(mask) not in dense:
                dense[id(mask)] = nn.Parameter(mapped(name, pruned), requires_grad=False)
            module._parameters[form.name] = dense[id(mask)]
            continue
        parameter = module._parameters.pop(form.name)
        assert parameter is not None
        if id(mask) not in kept:
            values = mapped(f"{name}_{VALUES}", pruned[mask])
            kept[id(mask)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
        module._parameters[f"{form.name}_{VALUES}"] = kept[id(mask)]
        module._buffers[f"{form.name}_{MASK}"] = mapped(f"{name}_{MASK}", mask)
        set_form(module, form.name, StoredSparse(form.name))
    for parameter in copied.model.parameters():
        parameter.grad = None
    return copied.model.eval()

"""A pruned model in the form that coremltools reads: float parameters with zeros, described as pruned."""

from __future__ import annotations

import warnings
from os import PathLike

from torch import nn

from graphpress.backends.coreml.metadata import PRUNING_THRESHOLD, describe, with_pruning
from graphpress.modules.mapping import Mapped
from graphpress.passes.weights import PruningWarning, is_smaller_sparse
from graphpress.pruning.finalizing import PrunedModel
from graphpress.pruning.restoring import keep


def stored_for_coreml(prepared: nn.Module, mmap_dir: str | PathLike[str] | None = None) -> nn.Module:
    """A copy of `prepared` whose pruned parameters are floats with zeros; those worth it are described as pruned.

    coremltools finds the mask again from the floats, and takes those up to `PRUNING_THRESHOLD` for zeros. A weight that
    keeps any so small is not described, with a warning: it stays exact, and takes the space of all its elements.
    """
    copied = PrunedModel(prepared)
    mapped = Mapped(mmap_dir)
    dense: dict[int, nn.Parameter] = {}
    left: dict[str, None] = {}
    for path, module, form in copied.places:
        mask, name = copied.mask(form), form.qualified_name(path)
        if id(mask) not in dense:
            floats = module._parameters[form.name]
            assert floats is not None
            pruned = mapped(name, copied.pruned(module, form))
            dense[id(mask)] = nn.Parameter(pruned, requires_grad=floats.requires_grad)
        parameter = dense[id(mask)]
        module._parameters[form.name] = parameter
        entries = with_pruning({}, parameter.detach(), mask, parameter.element_size() * 8)
        if entries:
            describe(copied.model, module, form.name, entries)
            keep(module, form.name)
        elif is_smaller_sparse(mask, parameter.element_size() * 8):
            left[name] = None
    if left:
        warnings.warn(
            f"coremltools' metadata makes zeros of kept elements up to {PRUNING_THRESHOLD:.2g}, which these weights "
            "have; they are stored dense. graphpress.backends.coreml.convert of the model finalized for Core AI stores "
            f"them sparse: {', '.join(left)}",
            PruningWarning,
            stacklevel=3,
        )
    return copied.model.eval()

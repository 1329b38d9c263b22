"""A pruned model in the form that coremltools reads: float parameters with zeros, described as pruned."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from graphpress.backends.coreml.metadata import PRUNING_THRESHOLD, describe, pruned_entries
from graphpress.mapped_tensors import Mapped
from graphpress.passes.pruning import PruningWarning, is_smaller_sparse
from graphpress.pruning.finalizing import PrunedModel
from graphpress.pruning.restoring import keep


def stored_for_coreml(prepared: nn.Module, mmap_dir: str | PathLike[str] | None = None) -> nn.Module:
    """A copy of `prepared` whose pruned parameters are floats with zeros; those worth it are described as pruned.

    coremltools finds the mask again from the floats, and drops those up to `PRUNING_THRESHOLD`. They are zeros in what
    is returned, with a warning, so that it computes what is stored.
    """
    copied = PrunedModel(prepared)
    mapped = Mapped(None if mmap_dir is None else Path(mmap_dir))
    dense: dict[int, nn.Parameter] = {}
    dropped: dict[str, int] = {}
    for path, module, form in copied.places:
        mask, name = copied.mask(form), form.qualified_name(path)
        pruned = copied.pruned(module, form)
        found = mask & (pruned.abs() > PRUNING_THRESHOLD)
        is_described = is_smaller_sparse(found, pruned.element_size() * 8)
        if is_described:
            lost = int((pruned != 0).sum()) - int(found.sum())
            if lost and id(mask) not in dense:
                dropped[name] = lost
            pruned = torch.where(found, pruned, torch.zeros_like(pruned))
        if id(mask) not in dense:
            dense[id(mask)] = nn.Parameter(mapped(name, pruned), requires_grad=False)
        module._parameters[form.name] = dense[id(mask)]
        if is_described:
            describe(copied.model, module, form.name, pruned_entries())
            keep(module, form.name)
    if dropped:
        lines = "".join(f"\n  {name}: {count}" for name, count in dropped.items())
        warnings.warn(
            f"coremltools' metadata makes zeros of kept elements up to {PRUNING_THRESHOLD:.2g} as well; "
            "graphpress.backends.coreml.convert of a model finalized for Core AI keeps them. Elements dropped:"
            f"{lines}",
            PruningWarning,
            stacklevel=3,
        )
    return copied.model.eval()

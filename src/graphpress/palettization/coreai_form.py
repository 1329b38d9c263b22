"""A palettized model in the form that `torch.export` and the Core AI converter keep packed."""

from __future__ import annotations

from os import PathLike

from torch import Tensor, nn

from graphpress.backends.coreai import register
from graphpress.modules.forms import set_form
from graphpress.modules.mapping import Mapped
from graphpress.palettization.finalizing import copied
from graphpress.palettization.forms import StoredTable, tensors_of
from graphpress.palettization.pruned import sparse_parts
from graphpress.pruning.forms import MASK


def stored_for_coreai(prepared: nn.Module, mmap_dir: str | PathLike[str] | None = None) -> nn.Module:
    """A copy of `prepared` whose palettized parameters are gone: their modules expand indices and tables.

    Raises:
        MissingDependencyError: when the Core AI converter is not installed.
    """
    register()
    model, palettized = copied(prepared)
    mapped = Mapped(mmap_dir)
    zero_points: dict[int, Tensor] = {}
    once: dict[tuple[str, int], Tensor] = {}  # tied modules have one tensor between them
    for path, module, form in palettized:
        stored, mask = form.stored(module), form.mask(module)
        if mask is not None:
            sparse = sparse_parts(stored, mask)
            if sparse is None:
                del module._buffers[f"{form.name}_{MASK}"]
            for part, tensor in (sparse or {}).items():
                module._buffers[f"{form.name}_{part}"] = once.setdefault((part, id(mask)), tensor)
            stored = form.stored(module)
        for part, tensor in tensors_of(stored).items():
            if part == "zero_point":  # a code, as the op wants it; tied modules have one between them
                codes = tensor.round().to(stored.lut.dtype)
                tensor = zero_points.setdefault(id(tensor), codes)
            buffer = f"{form.name}_{part}"
            module._buffers[buffer] = mapped(f"{path}.{buffer}" if path else buffer, tensor)
        del module._parameters[form.name]
        set_form(module, form.name, StoredTable(form.name, stored.axis, stored.dtype))
    for parameter in model.parameters():
        parameter.grad = None
    return model.eval()

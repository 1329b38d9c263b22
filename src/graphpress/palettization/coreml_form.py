"""A palettized model in the form that coremltools reads: float parameters, and buffers that say how they were made.

The protocol is coremltools' compression metadata, version 1: on each module ``_COREML_/<parameter>/<key>`` and on the
model ``_COREML_/metadata_version``. coremltools finds the indices again from the parameter and the table.
"""

from __future__ import annotations

from os import PathLike

from torch import nn

from graphpress.backends.coreml.metadata import describe, palettized_entries, why_not_palettized, with_pruning
from graphpress.modules.forms import drop_form
from graphpress.modules.mapping import Mapped
from graphpress.palettization.finalizing import copied
from graphpress.palettization.forms import tensors_of
from graphpress.palettization.restoring import keep
from graphpress.passes.weights import PalettizationError
from graphpress.pruning.forms import MASK


def stored_for_coreml(prepared: nn.Module, mmap_dir: str | PathLike[str] | None = None) -> nn.Module:
    """A copy of `prepared` whose palettized parameters hold the palettized values, described by buffers.

    Raises:
        PalettizationError: naming the weights that this form cannot describe.
    """
    model, palettized = copied(prepared)
    refused = [
        f"{form.qualified_name(path)}: {reason}"
        for path, module, form in palettized
        if (reason := why_not_palettized(form.stored(module)))
    ]
    if refused:
        lines = "".join(f"\n  {line}" for line in refused)
        raise PalettizationError(f"coremltools' compression metadata cannot describe {len(refused)} weights:{lines}")
    mapped = Mapped(mmap_dir)
    dense: dict[int, nn.Parameter] = {}
    for path, module, form in palettized:
        stored, mask = form.stored(module), form.mask(module)
        module._buffers.pop(f"{form.name}_{MASK}", None)
        drop_form(module, form.name)
        for part in tensors_of(stored):
            del module._buffers[f"{form.name}_{part}"]
        name = form.qualified_name(path)
        if id(stored.indices) not in dense:
            dense[id(stored.indices)] = nn.Parameter(mapped(name, stored.dense()), requires_grad=False)
        module._parameters[form.name] = dense[id(stored.indices)]
        entries = palettized_entries(stored)
        if mask is not None:
            entries = with_pruning(entries, stored.dense(), mask, stored.n_bits)
        describe(model, module, form.name, entries)
        keep(module, form.name, stored)
    return model.eval()

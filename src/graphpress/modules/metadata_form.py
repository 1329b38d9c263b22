"""Compressed parameters in the form that coremltools reads: floats with metadata buffers.

The protocol is coremltools' compression metadata, see `graphpress.backends.coreml.metadata`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from torch import nn

from graphpress.backends.coreml.metadata import describe, entries_of, why_not_described
from graphpress.modules.dense_form import store_dense
from graphpress.modules.masks import remember_pruned
from graphpress.modules.surgery import F, Placed
from graphpress.passes.weights import PalettizedWeight, PrunedWeight

_TABLES = "_graphpress_palettized"


def store_described(
    model: nn.Module, places: Sequence[Placed[F]], mmap_dir: str | PathLike[str] | None = None
) -> dict[str, str]:
    """Replace fake-compressed parameters of `model` by floats, with metadata where the protocol can express it.

    Tied parameters remain tied. Modules record lookup tables and pruned parameters for later compressors.

    Returns:
        the reasons why parameters could not be described, by their names in the model.
    """
    refused: dict[str, str] = {}
    for place, weight in store_dense(places, mmap_dir):
        name, module = place.form.name, place.module
        if weight is None:
            continue
        if reason := why_not_described(weight):
            refused[place.name] = reason
        elif entries := entries_of(weight):
            describe(model, module, name, entries)
            if isinstance(weight, PalettizedWeight):
                remember_tables(module, name, weight)
            elif isinstance(weight, PrunedWeight):
                remember_pruned(module, name)
    return refused


def remember_tables(module: nn.Module, parameter: str, weight: PalettizedWeight) -> None:
    """Record the lookup tables of the float `parameter` of `module`, outside of its state dict."""
    module.__dict__[_TABLES] = {**remembered_tables(module), parameter: weight}


def remembered_tables(module: nn.Module) -> Mapping[str, PalettizedWeight]:
    """Return the weights that `remember_tables` recorded, by parameter."""
    tables: Mapping[str, PalettizedWeight] = module.__dict__.get(_TABLES, {})
    return tables


def forget_tables(module: nn.Module, parameter: str) -> None:
    """Undo `remember_tables`."""
    module.__dict__[_TABLES] = {name: weight for name, weight in remembered_tables(module).items() if name != parameter}

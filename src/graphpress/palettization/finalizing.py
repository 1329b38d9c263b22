"""What the forms of both backends share: a copy of the prepared model without what it no longer needs."""

from __future__ import annotations

import copy

from torch import nn

from graphpress.compressor import stop_counting
from graphpress.palettization.forms import FakePalettized, fake_forms
from graphpress.palettization.learning import stop_learning

Palettized = list[tuple[str, nn.Module, FakePalettized]]


def copied(prepared: nn.Module) -> tuple[nn.Module, Palettized]:
    """A copy of `prepared`, and its palettized parameters, whose floats are not copied."""
    floats = []
    for _, module, form in fake_forms(prepared):
        form.follow(module)
        floats.append(module._parameters[form.name])
    memo = {id(parameter): parameter for parameter in floats}
    model: nn.Module = copy.deepcopy(prepared, memo)
    stop_counting(model)
    palettized = fake_forms(model)
    for _, module, form in palettized:
        stop_learning(module, form.name)
    return model, palettized

"""What the forms of both backends share: a copy of the prepared model without what it no longer needs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from graphpress.compressor import stop_counting
from graphpress.modules.forms import drop_form
from graphpress.pruning.forms import FakePruned, fake_forms
from graphpress.pruning.installing import uninstall


class PrunedModel:
    """A copy of a prepared model, in which each pruned parameter waits for the form that stores it.

    Attributes:
        model: the copy; its pruned parameters have no form and no mask.
        places: path, module and form of each.
    """

    def __init__(self, prepared: nn.Module):
        floats = [module._parameters[form.name] for _, module, form in fake_forms(prepared)]
        self.model: nn.Module = copy.deepcopy(prepared, {id(parameter): parameter for parameter in floats})
        stop_counting(self.model)
        self.places = fake_forms(self.model)
        self._masks = {id(form): form.mask(module) for _, module, form in self.places}
        for _, module, form in self.places:
            drop_form(module, form.name)
            uninstall(module, form)

    def mask(self, form: FakePruned) -> Tensor:
        """Where the parameter is kept. Tied parameters have one mask between them."""
        return self._masks[id(form)]

    def pruned(self, module: nn.Module, form: FakePruned) -> Tensor:
        """The parameter with its zeros."""
        parameter = module._parameters[form.name]
        assert parameter is not None
        values = parameter.detach()
        return torch.where(self.mask(form), values, torch.zeros_like(values))

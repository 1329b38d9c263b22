"""What the forms of both backends share: a copy of the prepared model, and the parameters its quantizers have."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor, nn

from graphpress.eager.observing import link_of, unlink
from graphpress.modules.forms import drop_form
from graphpress.passes.weights.quantize import QParams
from graphpress.quantization.eager.quantized_module import HELD, HeldQuantizers
from graphpress.quantization.eager.quantizing import QuantizingObserver
from graphpress.quantization.eager.weights import FakeQuantizedParameter, quantized_parameters
from graphpress.quantization.execution import refuse_dynamic
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.switches import quantizers_of


@frozen(eq=False)
class QuantizedParameter:
    """A parameter that becomes codes: where it stands, the floats, its quantizer and the parameters of that."""

    path: str
    module: nn.Module
    form: FakeQuantizedParameter
    data: Tensor
    quantizer: FakeQuantizeImplBase
    qparams: QParams

    @property
    def name(self) -> str:
        """The name in the model."""
        return f"{self.path}.{self.form.name}" if self.path else self.form.name


def copied(prepared: nn.Module) -> tuple[nn.Module, list[QuantizedParameter]]:
    """A copy of `prepared` in eval mode, and its quantized parameters, whose floats are not copied.

    A parameter whose quantizer knows no range stays a float.
    """
    refuse_dynamic(quantizers_of(prepared))
    floats = [module._parameters[form.name] for _, module, form in quantized_parameters(prepared)]
    model: nn.Module = copy.deepcopy(prepared, {id(parameter): parameter for parameter in floats})
    found = []
    for path, module, form in quantized_parameters(model):
        data, quantizer = module._parameters[form.name], form.quantizer(module)
        assert data is not None
        with torch.no_grad():
            qparams = quantizer.qparams(data.detach())
        if qparams is None:
            drop_form(module, form.name)
            del module._modules[HELD]._modules[form.name]  # type: ignore[union-attr]
        else:
            found.append(QuantizedParameter(path, module, form, data.detach(), quantizer, qparams))
    for parameter in model.parameters():
        if not any(parameter is kept for kept in floats):
            parameter.grad = None
    return model.eval(), found


def settle_activations(model: nn.Module, made: Callable[[FakeQuantizeImplBase, QParams], nn.Module]) -> None:
    """Put what `made` makes in the place of every fake-quantizer that has seen data, and take the others away.

    What the model calls that was never met stays whole from now on. Without activation quantizers, nothing is watched.
    """
    new: dict[int, nn.Module] = {}
    for held in [module for module in model.modules() if isinstance(module, HeldQuantizers)]:
        held._waiting.clear()
        for key, quantizer in list(held._modules.items()):
            if not isinstance(quantizer, FakeQuantizeImplBase) or quantizer.is_state:
                continue
            with torch.no_grad():
                qparams = quantizer.qparams()
            if qparams is None:
                del held._modules[key]
            else:
                held._modules[key] = new.setdefault(id(quantizer), made(quantizer, qparams))
    for module in model.modules():
        link = link_of(module)
        if link is not None and isinstance(link.observer, QuantizingObserver):
            link.observer.may_place = False
    if not new:
        unlink(model)

"""Quantized parameters of prepared modules: float parameters with fake-quantizers."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from attrs import define
from torch import Tensor, nn

from graphpress.modules.forms import set_form
from graphpress.modules.masks import MASK
from graphpress.modules.remembering import Remembered, outside_inference
from graphpress.modules.surgery import FakeCompressed
from graphpress.passes.weights import QuantizedWeight
from graphpress.passes.weights.quantize import require_finite
from graphpress.quantization.eager.quantized_module import HELD, holder_in
from graphpress.quantization.eager.weights import PlannedWeight
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, fake_quantizer


@define(eq=False, slots=False)
class FakeQuantized(FakeCompressed):
    """A float parameter that is read through the fake-quantizer of the same name in its module."""

    _value: Remembered[Tensor] = attrs.field(factory=Remembered, init=False, repr=False)

    def value(self, module: nn.Module) -> Tensor:
        """Return the fake-quantized parameter, cached in eval mode until the parameter or a switch changes."""
        parameter, quantizer = self.parameter(module), self.quantizer(module)
        if module.training or (torch.is_grad_enabled() and parameter.requires_grad):
            quantized: Tensor = quantizer(parameter)
            return quantized
        switches = (quantizer.observer_enabled, quantizer.fake_quant_enabled)
        reads = (parameter, *quantizer.parameters(), *quantizer.buffers())  # scales may be learned
        return self._value.get(reads, lambda: outside_inference(lambda: quantizer(parameter)), switches)

    def parametrization(self, module: nn.Module) -> nn.Module:
        """See the base class."""
        return self.quantizer(module)

    def quantizer(self, module: nn.Module) -> FakeQuantizeImplBase:
        """Return the fake-quantizer."""
        found = module._modules[HELD]._modules[self.name]  # type: ignore[union-attr]
        assert isinstance(found, FakeQuantizeImplBase)
        return found

    def stored(self, module: nn.Module) -> QuantizedWeight | None:
        """See the base class.

        Raises:
            QuantizationError: for a parameter that is not finite.
        """
        data, quantizer = self.parameter(module).detach(), self.quantizer(module)
        with torch.no_grad():
            qparams = quantizer.qparams(data)
        if qparams is None:
            return None
        require_finite(data, quantizer.name)
        how = {"offset": quantizer.code_offset, "mask": self.mask(module)}
        return QuantizedWeight.of(data, quantizer.spec, qparams, **how)

    def beside(self, module: nn.Module) -> Mapping[str, Tensor]:
        """See the base class."""
        mask = self.mask(module)
        return {} if mask is None else {f"{self.name}_{MASK}": mask}

    def take_out(self, module: nn.Module) -> None:
        """See the base class."""
        super().take_out(module)
        del module._modules[HELD]._modules[self.name]  # type: ignore[union-attr]


def install_quantized(weight: PlannedWeight) -> None:
    """Make every module with this parameter read it through one fake-quantizer."""
    first = weight.places[0]
    dtype = first.parameter.dtype
    quantizer = fake_quantizer(first.qualified_name, weight.spec, weight.block_size, is_state=True, data_dtype=dtype)
    quantizer.schedule = weight.schedule
    for site in weight.places:
        holder_in(site.module).add(site.name, quantizer)
        set_form(site.module, site.name, FakeQuantized(site.name))

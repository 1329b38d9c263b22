"""The switches of all fake-quantizers in a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


def quantizers_of(module: nn.Module) -> Sequence[FakeQuantizeImplBase]:
    """The fake-quantizers in `module`, each once."""
    return [m for m in module.modules() if isinstance(m, FakeQuantizeImplBase)]


@contextmanager
def switched(
    module: nn.Module, *, observer: bool, fake_quant: bool, after: tuple[bool, bool] | None = None
) -> Iterator[None]:
    """Both switches of every quantizer in `module` as given; afterwards as in `after`, by default as they were."""
    quantizers = quantizers_of(module)
    before = [(q.observer_enabled, q.fake_quant_enabled) for q in quantizers]
    for quantizer in quantizers:
        quantizer.observer_enabled, quantizer.fake_quant_enabled = observer, fake_quant
    try:
        yield
    finally:
        for quantizer, switches in zip(quantizers, before, strict=True):
            quantizer.observer_enabled, quantizer.fake_quant_enabled = after or switches

"""The switches of all fake-quantizers in a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


class Switched:
    """Something other than a fake-quantizer that has its two switches."""

    observer_enabled: bool
    fake_quant_enabled: bool


def quantizers_of(module: nn.Module) -> Sequence[FakeQuantizeImplBase]:
    """The fake-quantizers in `module`, each once."""
    return [m for m in module.modules() if isinstance(m, FakeQuantizeImplBase)]


def switches_of(module: nn.Module) -> Sequence[FakeQuantizeImplBase | Switched]:
    """Everything in `module` that has the switches: its fake-quantizers, and what will make more of them."""
    return [m for m in module.modules() if isinstance(m, FakeQuantizeImplBase | Switched)]


@contextmanager
def switched(
    module: nn.Module, *, observer: bool, fake_quant: bool, after: tuple[bool, bool] | None = None
) -> Iterator[None]:
    """Both switches of every quantizer in `module` as given; afterwards as in `after`, by default as they were.

    Quantizers that were made inside are afterwards as in `after`, by default not observing and quantizing.
    """
    before = {id(s): (s, s.observer_enabled, s.fake_quant_enabled) for s in switches_of(module)}
    for switch, _, _ in before.values():
        switch.observer_enabled, switch.fake_quant_enabled = observer, fake_quant
    try:
        yield
    finally:
        for switch in switches_of(module):
            _, *was = before.get(id(switch), (switch, False, True))
            switch.observer_enabled, switch.fake_quant_enabled = after or was

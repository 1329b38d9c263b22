"""Schedules of quantization-aware training: what observes and what fake-quantizes at which step."""

from __future__ import annotations

from collections.abc import Iterable

from graphpress.passes.configs import QATSchedule
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


def switches_at(schedule: QATSchedule | None, step: int) -> tuple[bool, bool]:
    """Whether a quantizer observes, and whether it fake-quantizes, after `step` steps of training."""
    if schedule is None:
        return True, True
    ended = schedule.disable_observer is not None and step >= schedule.disable_observer
    return step >= schedule.enable_observer and not ended, step >= schedule.enable_fake_quant


def set_switches(quantizers: Iterable[FakeQuantizeImplBase], step: int) -> None:
    """Set both switches of every quantizer that has a schedule as it says for `step`."""
    for quantizer in quantizers:
        quantizer.observer_enabled, quantizer.fake_quant_enabled = switches_at(quantizer.schedule, step)


def advance_switches(quantizers: Iterable[FakeQuantizeImplBase], step: int) -> None:
    """Set the switches that change at `step`; the others stay, so that what the user switched by hand does."""
    for quantizer in quantizers:
        before, after = switches_at(quantizer.schedule, step - 1), switches_at(quantizer.schedule, step)
        if before[0] != after[0]:
            quantizer.observer_enabled = after[0]
        if before[1] != after[1]:
            quantizer.fake_quant_enabled = after[1]

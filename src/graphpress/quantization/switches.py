"""The switches of fake-quantizers: for a whole model, for a submodule, by the schedule of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from graphpress.ir.errors import GraphpressError
from graphpress.passes.config import QATSchedule
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase

P = TypeVar("P")


class NoSuchPartError(GraphpressError, ValueError):
    """A submodule that holds nothing of what was to be switched."""


def parts_for(
    prepared: nn.Module, module: nn.Module | None, find: Callable[[nn.Module], Sequence[P]], what: str
) -> Sequence[P]:
    """The parts that `find` gives for `module`, or for the whole model where it is None.

    In a prepared graph, the module at the path of one of the user's modules holds its parameters only. It stands for
    the parts that were made for that module and for those inside it, which say so by their `module_paths`.

    Raises:
        NoSuchPartError: when `module` has none; `what` says of what.
    """
    if module is None:
        return find(prepared)
    found = {id(part): part for part in find(module)}
    paths = [path for path, inner in prepared.named_modules(remove_duplicate=False) if inner is module]
    for part in find(prepared):
        own: tuple[str, ...] = getattr(part, "module_paths", ())
        if any(_is_within(inner, path) for inner in own for path in paths):
            found[id(part)] = part
    if not found:
        where = f"{paths[0]!r} of the prepared model" if paths else f"this {type(module).__name__}"
        hint = "" if paths else "; it takes a submodule of the prepared model, or nothing"
        raise NoSuchPartError(f"{where} has no {what}{hint}")
    return list(found.values())


def _is_within(path: str, other: str) -> bool:
    return not other or path == other or path.startswith(f"{other}.")


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

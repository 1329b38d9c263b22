"""The switches of fake-quantizers, set for a model, for a submodule or by training schedules."""

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
    """A submodule has no parts of the requested kind."""


def parts_for(
    prepared: nn.Module, module: nn.Module | None, find: Callable[[nn.Module], Sequence[P]], what: str
) -> Sequence[P]:
    """Return the parts that `find` returns for `module`, or for the whole model if it is None.

    In a prepared graph, the module at a path of the user's model holds only the parameters. It then selects the parts
    whose `module_paths` are that path or below it.

    Raises:
        NoSuchPartError: if `module` has none; `what` names their kind.
    """
    if module is None:
        return find(prepared)
    if not isinstance(module, nn.Module):
        raise NoSuchPartError(f"got a {type(module).__name__}; accepted: a submodule of the prepared model, or nothing")
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
    """Base of other classes with the two switches of a fake-quantizer."""

    observer_enabled: bool
    fake_quant_enabled: bool


def quantizers_of(module: nn.Module) -> Sequence[FakeQuantizeImplBase]:
    """Return the fake-quantizers in `module`, each once."""
    return [m for m in module.modules() if isinstance(m, FakeQuantizeImplBase)]


def quantizers_by_module(prepared: nn.Module) -> dict[str, list[FakeQuantizeImplBase]]:
    """Return the fake-quantizers of a prepared model by the paths of the user's modules that they belong to.

    In a prepared graph these are their `module_paths`; in eager mode, that of the module whose collection holds them.
    """
    found: dict[str, list[FakeQuantizeImplBase]] = {}
    for path, module in prepared.named_modules():
        if isinstance(module, FakeQuantizeImplBase):
            for owner in module.module_paths or (".".join(path.split(".")[:-2]),):
                found.setdefault(owner, []).append(module)
    return found


def switches_of(module: nn.Module) -> Sequence[FakeQuantizeImplBase | Switched]:
    """Return all objects in `module` with the switches: fake-quantizers, and holders that create more of them."""
    return [m for m in module.modules() if isinstance(m, FakeQuantizeImplBase | Switched)]


@contextmanager
def switched(
    module: nn.Module, *, observer: bool, fake_quant: bool, after: tuple[bool, bool] | None = None
) -> Iterator[None]:
    """Set both switches of every quantizer in `module` inside the context, then to `after`, by default as before.

    Quantizers created inside are set to `after`, by default not observing and fake-quantizing.
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
    """Return whether a quantizer observes, and whether it fake-quantizes, after `step` training steps."""
    if schedule is None:
        return True, True
    ended = schedule.disable_observer is not None and step >= schedule.disable_observer
    return step >= schedule.enable_observer and not ended, step >= schedule.enable_fake_quant


def set_switches(quantizers: Iterable[FakeQuantizeImplBase], step: int) -> None:
    """Set both switches of every quantizer with a schedule to their values at `step`."""
    for quantizer in quantizers:
        quantizer.observer_enabled, quantizer.fake_quant_enabled = switches_at(quantizer.schedule, step)


def advance_switches(quantizers: Iterable[FakeQuantizeImplBase], step: int) -> None:
    """Set only the switches that change at `step`, which preserves settings of the user."""
    for quantizer in quantizers:
        before, after = switches_at(quantizer.schedule, step - 1), switches_at(quantizer.schedule, step)
        if before[0] != after[0]:
            quantizer.observer_enabled = after[0]
        if before[1] != after[1]:
            quantizer.fake_quant_enabled = after[1]

"""Modules of an eagerly quantized model, which hold the quantizers of their ops and parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Self

from torch import Tensor, nn

from graphpress.compressor import StateDictError
from graphpress.eager.observing import Observed
from graphpress.modules.forms import add_behaviour, behaviours_of
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.switches import Switched

HELD = "_quantizers"
"""Name of the submodule that holds the quantizers of a module."""


class HeldQuantizers(Switched, nn.Module):
    """The quantizers of one module: fake-quantizers, or their finalized forms after `finalize`.

    New quantizers, for ops that are first called later, start with the two switches of this module, which are those of
    the whole model. Loaded state of a quantizer that does not exist yet is kept until it is created.
    """

    def __init__(self) -> None:
        super().__init__()
        self.observer_enabled = False
        self.fake_quant_enabled = True
        self._waiting: dict[str, dict[str, Tensor]] = {}

    def get(self, key: str) -> nn.Module | None:
        """Return the quantizer `key`, or None."""
        return self._modules.get(key)

    def add(self, key: str, quantizer: nn.Module) -> nn.Module:
        """Add `quantizer` as `key`, and apply the switches of the model and any pending state."""
        if isinstance(quantizer, FakeQuantizeImplBase):
            quantizer.observer_enabled, quantizer.fake_quant_enabled = self.observer_enabled, self.fake_quant_enabled
        quantizer.train(self.training)
        self._modules[key] = quantizer
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            quantizer.load_state_dict(waiting)
        return quantizer

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key, state in self._waiting.items():
            destination.update({f"{prefix}{key}.{name}": tensor for name, tensor in state.items()})

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, False, missing_keys, unexpected_keys, error_msgs
        )
        for name in [name for name in state_dict if name.startswith(prefix)]:
            key, _, rest = name.removeprefix(prefix).partition(".")
            if key not in self._modules:
                self._waiting.setdefault(key, {})[rest] = state_dict[name].detach().clone()


def refuse_waiting(model: nn.Module) -> None:
    """Reject loaded state of quantizers that `model` does not have.

    Raises:
        StateDictError: naming them.
    """
    found = [
        f"{path}.{key}"
        for path, module in model.named_modules()
        if isinstance(module, HeldQuantizers)
        for key in module._waiting
    ]
    if found:
        raise StateDictError(f"State dict does not match the prepared model: superfluous: {', '.join(found)}")


class QuantizedModule(Observed):
    """Mixin of the modules of an eagerly quantized model.

    The quantizers are a submodule for `modules`, `state_dict`, `to` and `train`, but are hidden from iteration over
    children, by which containers run them.
    """

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the children without the quantizers."""
        return ((name, child) for name, child in super().named_children() if name != HELD)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, also of the quantizers."""
        super().train(mode)
        held = self._modules.get(HELD)
        if held is not None:
            held.train(mode)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if HELD not in self._modules and any(name.startswith(f"{prefix}{HELD}.") for name in state_dict):
            holder_in(self)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        held = self._modules.get(HELD)
        if held is not None and recurse:
            held._apply(fn)
        return self


class QuantizedList(QuantizedModule):
    """`QuantizedModule` for sequences of modules."""

    def __len__(self) -> int:
        return len(self._modules) - (HELD in self._modules)

    def __iter__(self) -> Iterator[nn.Module]:
        return (module for name, module in self._modules.items() if name != HELD)  # type: ignore[misc]

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return super().__getitem__(index)  # type: ignore[misc]
        items = [(name, module) for name, module in self._modules.items() if name != HELD and module is not None][index]
        if isinstance(self, nn.Sequential):
            return nn.Sequential(OrderedDict(items))
        return nn.ModuleList([module for _, module in items])


class QuantizedDict(QuantizedModule):
    """`QuantizedModule` for dictionaries of modules."""

    def __len__(self) -> int:
        return len(self._modules) - (HELD in self._modules)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._modules if name != HELD)

    def keys(self) -> Any:
        """Return the names of the modules."""
        return self._others().keys()

    def values(self) -> Any:
        """Return the modules."""
        return self._others().values()

    def items(self) -> Any:
        """Return names and modules."""
        return self._others().items()

    def _others(self) -> Mapping[str, nn.Module | None]:
        return {name: module for name, module in self._modules.items() if name != HELD}


def behaviour_for(module: nn.Module) -> type[QuantizedModule]:
    """Return the mixin for `module`."""
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return QuantizedList
    return QuantizedDict if isinstance(module, nn.ModuleDict) else QuantizedModule


def held_by(module: nn.Module) -> HeldQuantizers | None:
    """Return the quantizers of `module` itself, or None."""
    held = module._modules.get(HELD)
    return held if isinstance(held, HeldQuantizers) else None


def holder_in(module: nn.Module, like: HeldQuantizers | None = None) -> HeldQuantizers:
    """Return the quantizers of `module` itself, created with the switches of `like` if missing.

    Raises:
        QuantizationError: if the module has another attribute of that name.
    """
    held = held_by(module)
    if held is not None:
        return held
    if hasattr(module, HELD):
        raise QuantizationError(
            f"{type(module).__name__} already has an attribute {HELD!r}, the name under which eager mode holds "
            "quantizers; rename it"
        )
    has_behaviour = any(issubclass(behaviour, QuantizedModule) for behaviour in behaviours_of(module))
    if module._modules and not has_behaviour:
        add_behaviour(module, behaviour_for(module))
    held = HeldQuantizers()
    if like is not None:
        held.observer_enabled, held.fake_quant_enabled = like.observer_enabled, like.fake_quant_enabled
    held.train(module.training)
    module._modules[HELD] = held
    return held

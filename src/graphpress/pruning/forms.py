"""Pruned parameters of modules: before `finalize`, a float parameter behind a mask; after it, as stored."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs import define
from torch import Tensor, nn

from graphpress.backends.coreai import register
from graphpress.modules.forms import ParameterForm, forms_of
from graphpress.passes.config import PruningSpec, SparsitySchedule
from graphpress.passes.weights import pruning_mask
from graphpress.quantization.remembering import Remembered

MASK, VALUES, SPARSITY = "mask", "nonzero_data", "sparsity"
"""What the buffers beside a parameter are called: ``weight_mask`` and so on."""


@define(eq=False, slots=False)
class FakePruned(ParameterForm):
    """A float parameter read with zeros where its mask, a buffer beside it, is false.

    Zeros get no gradient, and the floats under them stay, so that a later mask may let them through again.

    Attributes:
        name: of the parameter.
        spec: how it is pruned.
        schedule: how its sparsity grows in training; None is the target from the start.
        enabled: False lets the float parameter through.
    """

    name: str
    spec: PruningSpec
    schedule: SparsitySchedule | None
    enabled: bool = True

    def qualified_name(self, path: str) -> str:
        """The parameter's name in the model, where `path` is that of its module."""
        return f"{path}.{self.name}" if path else self.name

    def value(self, module: nn.Module) -> Tensor:
        """The pruned parameter, or, while not enabled, the float one."""
        parameter = module._parameters[self.name]
        assert parameter is not None
        if not self.enabled:
            return parameter
        return torch.where(self.mask(module), parameter, torch.zeros_like(parameter))

    def mask(self, module: nn.Module) -> Tensor:
        """True where the parameter is read."""
        mask = module._buffers[f"{self.name}_{MASK}"]
        assert mask is not None
        return mask

    def sparsity(self, module: nn.Module) -> float:
        """What the mask was made for."""
        return float(module.get_buffer(f"{self.name}_{SPARSITY}"))

    def scheduled(self, step: int) -> float:
        """The sparsity in force at a step of training."""
        target = self.spec.target_sparsity
        return target if self.schedule is None else self.schedule.sparsity(step, target)

    def prune_to(self, module: nn.Module, path: str, sparsity: float) -> None:
        """Choose anew which elements stay, by the floats as they are now. Modules tied to this one have the same mask.

        Raises:
            PruningError: for floats that are not finite.
        """
        parameter = module._parameters[self.name]
        assert parameter is not None
        made = pruning_mask(parameter, self.spec, sparsity, name=self.qualified_name(path))
        with torch.inference_mode(False), torch.no_grad():
            self.mask(module).copy_(made)
            module.get_buffer(f"{self.name}_{SPARSITY}").fill_(sparsity)


@define(eq=False, slots=False)
class StoredSparse(ParameterForm):
    """A parameter that exists only as its kept elements and their mask, expanded by the op that Core AI stores.

    Attributes:
        name: of the parameter; there is a parameter ``<name>_nonzero_data`` and a buffer ``<name>_mask``.
    """

    name: str
    _dense: Remembered[Tensor] = attrs.field(factory=Remembered, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        register()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        register()  # before anything is traced: in another process this is the first sign of the op

    def value(self, module: nn.Module) -> Tensor:
        """The expanded parameter; kept while the buffers stay the same, except in traces."""
        values, mask = self.parts(module)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return _expanded(values, mask)
        return self._dense.get([values, mask], lambda: _kept(values, mask))

    def parts(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """The kept elements, 1-D in row-major order, and the mask."""
        values: Any = getattr(module, f"{self.name}_{VALUES}")
        mask: Any = getattr(module, f"{self.name}_{MASK}")
        return values, mask


def fake_forms(model: nn.Module) -> list[tuple[str, nn.Module, FakePruned]]:
    """Path, module and form of every pruned parameter of a prepared model."""
    return [
        (path, module, form)
        for path, module in model.named_modules()
        for form in forms_of(module).values()
        if isinstance(form, FakePruned)
    ]


def _kept(values: Tensor, mask: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # a kept tensor must serve in every mode
        return _expanded(values, mask)


def _expanded(values: Tensor, mask: Tensor) -> Tensor:
    ops: Any = torch.ops.coreai
    dense: Tensor = ops.sparse_to_dense(values, mask)
    return dense

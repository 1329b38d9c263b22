"""Pruned parameters of prepared modules: floats behind masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import define
from torch import Tensor, nn

from graphpress.modules.masks import MASK
from graphpress.modules.planning import PlannedWeight
from graphpress.modules.surgery import FakeCompressed, install
from graphpress.passes.config import PruningSpec, SparsitySchedule
from graphpress.passes.weights import PrunedWeight, PruningError, pruning_mask

SPARSITY = "sparsity"
"""What the buffer of the sparsity in force is called beside a parameter: ``weight_sparsity`` and so on."""


@define(eq=False, slots=False)
class FakePruned(FakeCompressed):
    """A float parameter read with zeros where its mask, a buffer beside it, is false.

    Zeros get no gradient, and the floats under them stay, so that a later mask may let them through again.

    Attributes:
        spec: how it is pruned.
        schedule: how its sparsity grows in training; None is the target from the start.
        enabled: False lets the float parameter through.
    """

    spec: PruningSpec
    schedule: SparsitySchedule | None
    enabled: bool = True

    def value(self, module: nn.Module) -> Tensor:
        """The pruned parameter, or, while not enabled, the float one."""
        parameter = self.parameter(module)
        return torch.where(self.mask(module), parameter, torch.zeros_like(parameter)) if self.enabled else parameter

    def mask(self, module: nn.Module) -> Tensor:
        """True where the parameter is read."""
        mask = module._buffers[f"{self.name}_{MASK}"]
        assert mask is not None
        return mask

    def stored(self, module: nn.Module) -> PrunedWeight:
        """See the base class."""
        return PrunedWeight.of(self.parameter(module), self.mask(module))

    def beside(self, module: nn.Module) -> Mapping[str, Tensor]:
        """See the base class."""
        return {name: module.get_buffer(name) for name in (f"{self.name}_{MASK}", f"{self.name}_{SPARSITY}")}

    def sparsity(self, module: nn.Module) -> float:
        """What the mask was made for."""
        return float(module.get_buffer(f"{self.name}_{SPARSITY}"))

    def scheduled(self, step: int) -> float:
        """The sparsity in force at a step of training."""
        target = self.spec.target_sparsity
        return target if self.schedule is None else self.schedule.sparsity(step, target)

    def prune_to(self, module: nn.Module, name: str, sparsity: float) -> None:
        """Choose anew which elements stay, by the floats as they are now. Modules tied to this one have the same mask.

        Args:
            module: that has the parameter.
            name: of the parameter in the model, for errors.
            sparsity: the fraction of zeros.

        Raises:
            PruningError: for floats that are not finite.
        """
        made = pruning_mask(self.parameter(module), self.spec, sparsity, name=name)
        with torch.inference_mode(False), torch.no_grad():
            self.mask(module).copy_(made)
            module.get_buffer(f"{self.name}_{SPARSITY}").fill_(sparsity)


def install_pruned(weight: PlannedWeight) -> None:
    """Let every module that has this parameter read it behind one mask.

    Raises:
        PruningError: for weights that cannot be pruned, and where a module has something under the name of a buffer.
    """
    mask = pruning_mask(weight.parameter, weight.spec, name=weight.name)
    sparsity = torch.tensor(weight.spec.target_sparsity, dtype=torch.float64)
    schedule = getattr(weight.module_config, "sparsity_schedule", None)
    for site in weight.places:
        beside = {f"{site.name}_{MASK}": mask, f"{site.name}_{SPARSITY}": sparsity}
        install(site, FakePruned(site.name, weight.spec, schedule), beside, PruningError)

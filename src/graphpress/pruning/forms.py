"""Pruned parameters of prepared modules: float parameters with masks as buffers."""

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
"""Suffix of the buffer with the current sparsity: ``weight_sparsity`` for ``weight``."""


@define(eq=False, slots=False)
class FakePruned(FakeCompressed):
    """A float parameter that is read with zeros where its mask buffer is False.

    Zeros get no gradient. The floats under them are preserved, so that a later mask can select them again.

    Attributes:
        spec: the pruning spec.
        schedule: the sparsity over training steps; None is the target sparsity from the start.
        enabled: False uses the float parameter.
    """

    spec: PruningSpec
    schedule: SparsitySchedule | None
    enabled: bool = True

    def value(self, module: nn.Module) -> Tensor:
        """Return the pruned parameter, or the float one if disabled."""
        parameter = self.parameter(module)
        return torch.where(self.mask(module), parameter, torch.zeros_like(parameter)) if self.enabled else parameter

    def mask(self, module: nn.Module) -> Tensor:
        """Return the mask: True for kept elements."""
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
        """Return the sparsity that the mask was chosen for."""
        return float(module.get_buffer(f"{self.name}_{SPARSITY}"))

    def scheduled(self, step: int) -> float:
        """Return the scheduled sparsity at a training step."""
        target = self.spec.target_sparsity
        return target if self.schedule is None else self.schedule.compute_sparsity(step, target)

    def prune_to(self, module: nn.Module, name: str, sparsity: float) -> None:
        """Choose the kept elements again by the current floats; tied modules share the mask.

        Args:
            module: the module with the parameter.
            name: the parameter's name in the model, for errors.
            sparsity: the fraction of zeros.

        Raises:
            PruningError: for floats that are not finite.
        """
        made = pruning_mask(self.parameter(module), self.spec, sparsity, name=name)
        with torch.inference_mode(False), torch.no_grad():
            self.mask(module).copy_(made)
            module.get_buffer(f"{self.name}_{SPARSITY}").fill_(sparsity)


def install_pruned(weight: PlannedWeight, mask: Tensor | None = None) -> None:
    """Make every module with this parameter read it through one mask.

    Args:
        weight: the parameter.
        mask: the mask; None chooses the elements of largest magnitude.

    Raises:
        PruningError: for weights that cannot be pruned, and if a module already uses the name of a buffer.
    """
    if mask is None:
        mask = pruning_mask(weight.parameter, weight.spec, name=weight.name)
    sparsity = torch.tensor(weight.spec.target_sparsity, dtype=torch.float64)
    schedule = getattr(weight.module_config, "sparsity_schedule", None)
    for site in weight.places:
        beside = {f"{site.name}_{MASK}": mask, f"{site.name}_{SPARSITY}": sparsity}
        install(site, FakePruned(site.name, weight.spec, schedule), beside, PruningError)

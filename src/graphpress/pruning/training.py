"""Training with pruned weights: how sparse each of them is at which step."""

from __future__ import annotations

from torch import nn

from graphpress.compressor import count_step, steps_of
from graphpress.pruning.forms import fake_forms


class PruningTraining:
    """Counts training steps; each weight is as sparse as its schedule says.

    A mask is chosen anew, by the magnitudes of that moment, when the sparsity changes, and stays until it changes
    again.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._forms = fake_forms(model)
        self._follow_schedules()

    @property
    def steps(self) -> int:
        """How many steps were taken; the prepared model's `state_dict` has the number."""
        return steps_of(self._model)

    @property
    def sparsities(self) -> dict[str, float]:
        """The sparsity in force of each pruned weight, by its name in the model."""
        return {form.qualified_name(path): form.sparsity(module) for path, module, form in self._forms}

    def step(self) -> None:
        """One step of the optimizer, or one epoch, was taken."""
        count_step(self._model)
        self._follow_schedules()

    def finish(self) -> None:
        """Let every weight have its target sparsity, whatever the schedule."""
        for path, module, form in self._forms:
            if form.sparsity(module) != form.spec.target_sparsity:
                form.prune_to(module, path, form.spec.target_sparsity)
            form.enabled = True

    def _follow_schedules(self) -> None:
        for path, module, form in self._forms:
            wanted = form.scheduled(self.steps)
            if form.sparsity(module) != wanted:
                form.prune_to(module, path, wanted)
            form.enabled = True

"""Training with pruned weights: how sparse each of them is at which step."""

from __future__ import annotations

from torch import nn

from graphpress.compressor import count_step, steps_of
from graphpress.modules.surgery import Placed, placed
from graphpress.pruning.forms import FakePruned


class PruningTraining:
    """Counts training steps; each weight is as sparse as its schedule says.

    A mask is chosen anew, by the magnitudes of that moment, when the sparsity changes, and stays until it changes
    again.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._places = placed(model, FakePruned)
        self._follow_schedules()

    @property
    def steps(self) -> int:
        """How many steps were taken; the prepared model's `state_dict` has the number."""
        return steps_of(self._model)

    @property
    def sparsities(self) -> dict[str, float]:
        """The sparsity in force of each pruned weight, by its name in the model."""
        return {each.name: each.form.sparsity(each.module) for each in self._places}

    def step(self) -> None:
        """One step of the optimizer, or one epoch, was taken."""
        count_step(self._model)
        self._follow_schedules()

    def finish(self) -> None:
        """Let every weight have its target sparsity, whatever the schedule."""
        for each in self._places:
            self._let(each, each.form.spec.target_sparsity)

    def _follow_schedules(self) -> None:
        for each in self._places:
            self._let(each, each.form.scheduled(self.steps))

    def _let(self, place: Placed[FakePruned], sparsity: float) -> None:
        """Let a weight be so sparse, and be used so."""
        if place.form.sparsity(place.module) != sparsity:
            place.form.prune_to(place.module, place.name, sparsity)
        place.form.enabled = True

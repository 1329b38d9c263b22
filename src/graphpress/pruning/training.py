"""Schedules of training with pruned weights."""

from __future__ import annotations

from torch import nn

from graphpress.compressor import count_step, steps_of
from graphpress.modules.surgery import Placed, placed
from graphpress.pruning.forms import FakePruned


class PruningTraining:
    """Counts training steps and sets the sparsity of each weight by its schedule.

    When the sparsity changes, a new mask is chosen by the current magnitudes; it is used until the next change.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._places = placed(model, FakePruned)
        self._follow_schedules()

    @property
    def steps(self) -> int:
        """The number of training steps, stored in the prepared model's `state_dict`."""
        return steps_of(self._model)

    @property
    def sparsities(self) -> dict[str, float]:
        """Return the current sparsity of each pruned weight, by its name in the model."""
        return {each.name: each.form.sparsity(each.module) for each in self._places}

    def step(self) -> None:
        """Count one optimizer step or epoch, and set sparsities by their schedules."""
        count_step(self._model)
        self._follow_schedules()

    def finish(self) -> None:
        """Set every weight to its target sparsity, regardless of its schedule."""
        for each in self._places:
            self._let(each, each.form.spec.target_sparsity)

    def _follow_schedules(self) -> None:
        for each in self._places:
            self._let(each, each.form.scheduled(self.steps))

    def _let(self, place: Placed[FakePruned], sparsity: float) -> None:
        """Prune a weight to this sparsity and enable pruning."""
        if place.form.sparsity(place.module) != sparsity:
            place.form.prune_to(place.module, place.name, sparsity)
        place.form.enabled = True

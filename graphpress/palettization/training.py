"""Training with palettized weights."""

from __future__ import annotations

from torch import nn

from graphpress.palettization.forms import fake_forms


class PalettizationTraining:
    """Counts training steps; each weight is palettized from the step on that its schedule says.

    Attributes:
        steps: how many steps were taken.
    """

    def __init__(self, model: nn.Module):
        self.steps = 0
        self._forms = [(module, form) for _, module, form in fake_forms(model)]
        self._apply()

    def step(self) -> None:
        """One step of the optimizer was taken."""
        self.steps += 1
        self._apply()

    def finish(self) -> None:
        """Use every palettized weight, whatever the schedule."""
        for module, form in self._forms:
            form.enabled = True
            form.follow(module)

    def _apply(self) -> None:
        for _, form in self._forms:
            form.enabled = self.steps >= form.start

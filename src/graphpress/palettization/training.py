"""Training with palettized weights: which of them are used at which step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from graphpress.compressor import count_step, steps_of
from graphpress.modules.surgery import Placed, placed
from graphpress.palettization.forms import FakePalettized


class PalettizationTraining:
    """Counts training steps; each weight is palettized from the step on that its schedule says.

    Until then the float weight is used and trained. When its turn comes, its tables are found anew, by `cluster`.
    """

    def __init__(self, model: nn.Module, cluster: Callable[[Sequence[Placed[FakePalettized]]], None]):
        self._model = model
        self._cluster = cluster
        self._places = placed(model, FakePalettized)
        for each in self._places:
            each.form.enabled = self.steps >= each.form.start
        self._floats = [
            (each, each.parameter, each.parameter._version) for each in self._places if not each.form.enabled
        ]

    @property
    def steps(self) -> int:
        """How many steps were taken; the prepared model's `state_dict` has the number."""
        return steps_of(self._model)

    def step(self) -> None:
        """One step of the optimizer, or one epoch, was taken. Switches that are not due stay as they are."""
        steps = count_step(self._model)
        due = [each for each in self._places if each.form.start == steps]
        if due:
            self._cluster(due)
        for each in due:
            each.form.enabled = True

    def finish(self) -> None:
        """Use every palettized weight, whatever the schedule: those whose floats were trained are clustered anew."""
        trained = [
            each
            for each, parameter, version in self._floats
            if each.form.start > self.steps and (each.parameter is not parameter or parameter._version != version)
        ]
        if trained:
            self._cluster(trained)
        for each in self._places:
            each.form.enabled = True
            each.form.settle(each.module)

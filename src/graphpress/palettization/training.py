"""Schedules of training with palettized weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from graphpress.compressor import count_step, steps_of
from graphpress.modules.surgery import Placed, placed
from graphpress.palettization.forms import FakePalettized


class PalettizationTraining:
    """Counts training steps and palettizes each weight from the start step of its schedule.

    Before that step the float weight is used and trained; at that step `cluster` finds its lookup tables again.
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
        """The number of training steps, stored in the prepared model's `state_dict`."""
        return steps_of(self._model)

    def step(self) -> None:
        """Count one optimizer step or epoch, and palettize the weights whose schedules start at it."""
        steps = count_step(self._model)
        due = [each for each in self._places if each.form.start == steps]
        if due:
            self._cluster(due)
        for each in due:
            each.form.enabled = True

    def finish(self) -> None:
        """Palettize every weight regardless of its schedule; weights whose floats were trained are clustered again."""
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

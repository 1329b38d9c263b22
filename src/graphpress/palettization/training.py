"""Training with palettized weights: which of them are used at which step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from graphpress.compressor import count_step, steps_of
from graphpress.palettization.forms import FakePalettized, fake_forms

Placed = tuple[str, nn.Module, FakePalettized]


class PalettizationTraining:
    """Counts training steps; each weight is palettized from the step on that its schedule says.

    Until then the float weight is used and trained. When its turn comes, its tables are found anew, by `cluster`.
    """

    def __init__(self, model: nn.Module, cluster: Callable[[Sequence[Placed]], None]):
        self._model = model
        self._cluster = cluster
        self._forms = fake_forms(model)
        for _, _, form in self._forms:
            form.enabled = self.steps >= form.start
        self._floats = [(each, *_state(each)) for each in self._forms if not each[2].enabled]

    @property
    def steps(self) -> int:
        """How many steps were taken; the prepared model's `state_dict` has the number."""
        return steps_of(self._model)

    def step(self) -> None:
        """One step of the optimizer, or one epoch, was taken. Switches that are not due stay as they are."""
        steps = count_step(self._model)
        due = [each for each in self._forms if each[2].start == steps]
        if due:
            self._cluster(due)
        for _, _, form in due:
            form.enabled = True

    def finish(self) -> None:
        """Use every palettized weight, whatever the schedule: those whose floats were trained are clustered anew."""
        trained = [
            each
            for each, parameter, version in self._floats
            if each[2].start > self.steps and (_state(each)[0] is not parameter or _state(each)[1] != version)
        ]
        if trained:
            self._cluster(trained)
        for _, module, form in self._forms:
            form.enabled = True
            form.follow(module)


def _state(placed: Placed) -> tuple[Tensor, int]:
    _, module, form = placed
    parameter = module._parameters[form.name]
    assert parameter is not None
    return parameter, parameter._version

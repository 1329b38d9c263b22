"""The error of a prepared model's outputs against those of the float model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphpress.quantization.capture import states_restored_in
from graphpress.quantization.refinement.running import Inputs, StepwiseRun

Mode = Callable[[], AbstractContextManager[Any]]


@define(eq=False)
class OutputError:
    """Measures the outputs of a prepared module on some batches, resumed from any node.

    The outputs of the float model are computed once and kept; batches whose outputs exceed `memory` bytes are left out,
    except for the first.

    Attributes:
        module: the prepared module.
        batches: the arguments of each run.
        memory: maximum bytes of kept outputs, and of kept values of the run.
        exact, mode: contexts of the float model and of the model to measure.
    """

    module: fx.GraphModule
    batches: Sequence[Inputs]
    memory: int
    exact: Mode
    mode: Mode
    _wanted: list[list[Tensor]] = field(init=False)
    _energies: list[float] = field(init=False)
    _run: StepwiseRun = field(init=False)
    _first: fx.Node = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._first = next(iter(self.module.graph.nodes))
        self._wanted = []
        size = 0
        float_run = StepwiseRun(self.module, self.batches, 0, self.exact)
        with states_restored_in(self.module):
            for outputs in float_run.outputs_from(self._first):
                leaves = _floats(outputs)
                size += sum(leaf.numel() * leaf.element_size() for leaf in leaves)
                if self._wanted and size > self.memory:
                    break
                self._wanted.append([leaf.clone() for leaf in leaves])
        self._energies = [
            sum(_energy(leaf, torch.isfinite(leaf)) for leaf in leaves) for leaves in zip(*self._wanted, strict=True)
        ]
        self._run = StepwiseRun(self.module, self.batches[: len(self._wanted)], self.memory, self.mode)

    @property
    def is_defined(self) -> bool:
        """False without floating outputs other than zero, whose error could be measured."""
        return any(energy > 0 for energy in self._energies)

    def advance_to(self, node: fx.Node) -> None:
        """Resume from `node` from now on; nodes must be requested in execution order."""
        self._run.advance_to(node)

    def values_before(self, node: fx.Node) -> Iterator[Tensor]:
        """Yield the first operand of `node` for each batch; call `advance_to` first."""
        yield from self._run.operand(node, node.args[0])  # type: ignore[arg-type]

    def restart(self) -> None:
        """Resume from the inputs again."""
        self._run = StepwiseRun(self.module, self._run.batches, self.memory, self.mode)

    def whole(self) -> float:
        """Return the error of a whole run; see `resumed`."""
        run = StepwiseRun(self.module, self._run.batches, 0, self.mode)
        return self._error(run.outputs_from(self._first))

    def resumed(self, node: fx.Node) -> float:
        """Return the mean over the outputs of the squared error relative to their energy, run from `node` on.

        It is infinite if an output is not finite where that of the float model is.
        """
        return self._error(self._run.outputs_from(node))

    def _error(self, results: Any) -> float:
        lost = [0.0] * len(self._energies)
        with states_restored_in(self.module):
            for wanted, outputs in zip(self._wanted, results, strict=True):
                for place, (exact, found) in enumerate(zip(wanted, _floats(outputs), strict=True)):
                    lost[place] += _energy(found - exact, torch.isfinite(exact))
        ratios = [part / energy for part, energy in zip(lost, self._energies, strict=True) if energy > 0]
        mean = sum(ratios) / max(1, len(ratios))
        return mean if math.isfinite(mean) else math.inf


def decibels(error: float) -> float:
    """Return the signal-to-noise ratio of a relative squared error."""
    return math.inf if error <= 0 else -10 * math.log10(error)


def _floats(outputs: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _energy(data: Tensor, counted: Tensor) -> float:
    return float(torch.where(counted, data, 0.0).float().square().sum(dtype=torch.float64))

"""What a stage reports, and decibels of a compressed model's outputs."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphpress.tools.zoo.entry import Inputs, ZooModel

BATCHES = 6
EVALUATIONS = 4


class Skipped(Exception):
    """A stage that does not apply to this architecture, or whose input another stage failed to make."""


class Fault(Exception):
    """A stage that ran to its end with a wrong result."""


@attrs.define
class StageRun:
    """Figures of a running stage, by name."""

    figures: dict[str, Any] = attrs.field(factory=dict)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the CPU seconds of the block as figure `name`."""
        start = time.process_time()
        yield
        self.figures[name] = round(time.process_time() - start, 3)


def float_outputs(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run `module` without gradients and return its floating outputs, in float64."""
    copies = pytree.tree_map_only(Tensor, torch.clone, inputs)
    with torch.no_grad():
        leaves = pytree.tree_leaves(_plain(module(*copies)))
    return [leaf.detach().double() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _plain(output: Any) -> Any:
    """Return caches as their tensors; they are no registered trees in every process."""
    if hasattr(output, "layers") and hasattr(output, "get_seq_length"):
        return [(getattr(each, "keys", None), getattr(each, "values", None)) for each in output.layers]
    if isinstance(output, dict):
        return [_plain(each) for each in output.values()]
    return [_plain(each) for each in output] if isinstance(output, list | tuple) else output


@attrs.define
class Decibels:
    """Signal to noise of outputs, pooled: each output counts alike, whatever its scale."""

    signal: dict[int, float] = attrs.field(factory=dict)
    noise: dict[int, float] = attrs.field(factory=dict)

    def add(self, reference: Sequence[Tensor], output: Sequence[Tensor]) -> None:
        """Add one evaluation; elements whose reference is not finite are left out."""
        if [each.shape for each in reference] != [each.shape for each in output]:
            shapes = [[tuple(each.shape) for each in side] for side in (reference, output)]
            raise Fault(f"outputs have shapes {shapes[1]}, the float model's {shapes[0]}")
        for index, (meant, got) in enumerate(zip(reference, output, strict=True)):
            finite = meant.isfinite()
            meant, got = meant[finite], got[finite]
            if not got.isfinite().all():
                raise Fault(f"output {index} is not finite in {int((~got.isfinite()).sum())} of {got.numel()} elements")
            self.signal[index] = self.signal.get(index, 0.0) + float(meant.square().sum())
            self.noise[index] = self.noise.get(index, 0.0) + float((meant - got).square().sum())

    def merge(self, other: Decibels) -> None:
        """Add the evaluations of `other`."""
        for index, signal in other.signal.items():
            self.signal[index] = self.signal.get(index, 0.0) + signal
            self.noise[index] = self.noise.get(index, 0.0) + other.noise[index]

    @property
    def value(self) -> float | None:
        """The decibels; None for an exact or an empty output."""
        ratios = [self.noise[index] / signal for index, signal in self.signal.items() if signal]
        mean = sum(ratios) / len(ratios) if ratios else 0.0
        return round(-10 * math.log10(mean), 2) if mean else None


def pooled(sets: Sequence[Decibels]) -> float | None:
    """Return the decibels of several sets together."""
    total = Decibels()
    for each in sets:
        total.merge(each)
    return total.value


def decibels_of(sets: Sequence[Decibels]) -> dict[str, Any]:
    """Return the figures of sets: pooled decibels, how many sets, and the decibels without each of them in turn."""
    return {
        "decibels": pooled(sets),
        "calibration sets": len(sets),
        "without each set": [pooled([*sets[:place], *sets[place + 1 :]]) for place in range(len(sets))],
    }


def decibels_of_sets(
    model: ZooModel, prepare: Callable[[nn.Module, Inputs], tuple[Any, nn.Module]], sets: int
) -> tuple[list[Decibels], Any, nn.Module]:
    """Return the decibels of the outputs for sets of weights, each prepared and calibrated on batches of its own.

    With one draw of the weights, chance decides between two compilers: a class token rounds well or badly everywhere.

    Args:
        model: the architecture.
        prepare: returns a quantizer and its prepared model for an example and a float model, which it may change.
        sets: how many sets of weights and batches.

    Returns:
        the decibels of each set, and the quantizer and the calibrated model of the first, whose weights are those of
        `build()`.
    """
    found: list[Decibels] = []
    evaluations = [model.example(900 + number) for number in range(EVALUATIONS)]
    first: list[tuple[Any, nn.Module]] = []
    for number in range(sets):
        floating = model.build(number)
        quantizer, prepared = prepare(model.build(number), model.example())
        calibrate(model, quantizer, prepared, number)
        found.append(decibels := Decibels())
        for inputs in evaluations:
            sides = (copy.deepcopy(each) if model.states else each for each in (floating, prepared))
            decibels.add(*(float_outputs(each, inputs) for each in sides))
        first = first or [(quantizer, prepared)]
    return found, *first[0]


def calibrate(model: ZooModel, quantizer: Any, prepared: nn.Module, number: int) -> None:
    """Run calibration set `number` through a prepared model."""
    with quantizer.calibration_mode(), torch.no_grad():
        for batch in range(BATCHES):
            prepared(*pytree.tree_map_only(Tensor, torch.clone, model.example(BATCHES * number + batch)))


def weight_decibels(model: ZooModel, floating: nn.Module, compressed: nn.Module) -> float | None:
    """Return the decibels of a model that needs no calibration."""
    decibels = Decibels()
    for number in range(EVALUATIONS):
        inputs = model.example(900 + number)
        pair = (copy.deepcopy(floating), copy.deepcopy(compressed)) if model.states else (floating, compressed)
        decibels.add(float_outputs(pair[0], inputs), float_outputs(pair[1], inputs))
    return decibels.value

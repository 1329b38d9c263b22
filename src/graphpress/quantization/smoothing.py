"""Factors of smoothed layers, from calibration data.

`SmoothLayers` places the factors in the graph; they are buffers of the prepared model, 1 at first. During calibration
they are 1, so that the ranges of channels are those of the model as it was. Then they are computed, and the batches run
again for the ranges of the activations that they change.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor, fx

from graphpress.ir.ops import op_of_target
from graphpress.passes.smooth_layers import SmoothedReader, Smoothing, smoothing_factor
from graphpress.quantization.calculators import QParamsCalculatorBase
from graphpress.quantization.capture import states_restored_in
from graphpress.quantization.execution import UncalibratedWarning
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.refinement.running import Inputs, flat_inputs
from graphpress.quantization.switches import quantizers_of, switched


@frozen
class SmoothingState:
    """The factors of smoothed layers, and the calculators of the activations that they change."""

    factors: Sequence[Tensor]
    calculators: Sequence[tuple[FakeQuantizeImplBase, QParamsCalculatorBase]]


@define(eq=False)
class SmoothedLayers:
    """The smoothed layers of a prepared model.

    Attributes:
        module: the prepared model.
        places: where its factors are.
        strength: the exponent of the activation's range.
    """

    module: fx.GraphModule
    places: Sequence[Smoothing]
    strength: float

    @contextmanager
    def unsmoothed(self) -> Iterator[Callable[[], None]]:
        """Set all factors to 1 inside the context.

        The yielded function restores the former factors and ranges of activations, as does an exception.
        """
        former = self.state()
        self._set([torch.ones_like(factor) for factor in former.factors])
        try:
            yield lambda: self.restore(former)
        except BaseException:
            self.restore(former)
            raise

    def smooth(self, batches: Sequence[Inputs], magnitudes: Magnitudes, strength: float) -> None:
        """Compute the factors from what `magnitudes` found in batches, and observe the activations again."""
        self._set([self._factor(place, magnitudes, strength) for place in self.places])
        self._observe_again(batches)

    def state(self) -> SmoothingState:
        """Return the factors, and the observations of the activations that they change."""
        return SmoothingState(
            [factor.clone() for factor in self._factors()],
            [(each, copy.deepcopy(each.calculator)) for each in self._activations()],
        )

    def restore(self, state: SmoothingState) -> None:
        """Return to a state."""
        self._set(state.factors)
        for quantizer, calculator in state.calculators:
            quantizer.calculator = calculator

    def warn_without_data(self) -> None:
        """Warn, three frames up, that all factors are still 1."""
        factors = self._factors()
        if factors and all(bool((factor == 1).all()) for factor in factors):
            warnings.warn(
                "smooth_layers had no data: no scale was moved between layers; run data through the prepared model "
                "inside calibration_mode() before finalize()",
                UncalibratedWarning,
                stacklevel=4,
            )

    def _activations(self) -> list[FakeQuantizeImplBase]:
        """Return the quantizers whose ranges change with the factors."""
        return [each for each in quantizers_of(self.module) if not each.is_state] if self.places else []

    def _factors(self) -> list[Tensor]:
        buffers = dict(self.module.named_buffers())
        return [buffers[place.factor.replace(".", "_")] for place in self.places]

    @torch.no_grad()
    def _set(self, factors: Sequence[Tensor]) -> None:
        for buffer, factor in zip(self._factors(), factors, strict=True):
            buffer.copy_(factor)

    def magnitudes(self, batches: Sequence[Inputs]) -> Magnitudes:
        """Return the magnitudes at each layer; all factors must be 1."""
        ranges = _InputRanges(self.module, {reader.node: reader for place in self.places for reader in place.readers})
        with (
            switched(self.module, observer=False, fake_quant=False),
            states_restored_in(self.module),
            torch.no_grad(),
        ):
            for inputs in batches:
                ranges.run(*flat_inputs(self.module, inputs), enable_io_processing=False)
        return ranges.found

    def _factor(self, place: Smoothing, found: Magnitudes, strength: float) -> Tensor:
        activation = torch.zeros(len(place.free), dtype=torch.float64)
        weight = torch.zeros_like(activation)
        for reader in place.readers:
            magnitudes = found[reader.node]
            activation.scatter_reduce_(0, reader.channels, magnitudes.input.double().cpu(), "amax")
            weight.scatter_reduce_(0, reader.channels, magnitudes.weight.double().cpu(), "amax")
        return torch.where(place.free, smoothing_factor(activation, weight, strength), 1.0)

    def _observe_again(self, batches: Sequence[Inputs]) -> None:
        for quantizer in self._activations():
            quantizer.forget_observations()
        with (
            switched(self.module, observer=True, fake_quant=False),
            states_restored_in(self.module),
            torch.no_grad(),
        ):
            for args, kwargs in batches:
                self.module(*args, **kwargs)


@define(eq=False)
class _Magnitudes:
    """The largest magnitude of each input feature of a linear layer, and of the weights that read it."""

    input: Tensor
    weight: Tensor


Magnitudes = Mapping[str, _Magnitudes]
"""The magnitudes at the smoothed layers, by the names of their nodes."""


class _InputRanges(fx.Interpreter):
    """Runs a module and collects the magnitudes at linear layers, by the names of their nodes."""

    def __init__(self, module: fx.GraphModule, readers: Mapping[str, SmoothedReader]):
        super().__init__(module)
        self.readers = readers
        self.found: dict[str, _Magnitudes] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and look at its operands first if it is one of the layers."""
        reader = self.readers.get(n.name)
        if reader is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            bound = op_of_target(n.target).bind(args, kwargs)  # type: ignore[arg-type]
            data = next(name for name in ("input", "mat1", "self") if name in bound)
            seen = bound[data].detach().abs().flatten(0, -2).amax(0)
            earlier = self.found.get(n.name)
            if earlier is None:
                self.found[n.name] = _Magnitudes(seen, bound[reader.operand].detach().abs().amax(1 - reader.axis))
            else:
                earlier.input = torch.maximum(earlier.input, seen)
        return super().run_node(n)

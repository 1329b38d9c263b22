"""Selection of smoothing, ranges, codes and bias corrections by the output error on held-out calibration batches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import attrs
import torch
from attrs import define, field, frozen
from torch import Tensor, fx

from graphpress.passes.config import (
    BiasCorrection,
    GPTQRounding,
    NearestRounding,
    QuantizerConfig,
    Selection,
    WeightRounding,
)
from graphpress.quantization.fake_quantize import FakeQuantize
from graphpress.quantization.histograms import HistogramCalculatorBase, MseQParamsCalculator
from graphpress.quantization.refinement.layers import (
    RefinableLayer,
    activation_quantizers,
    correction_buffers,
    refinable_layers,
)
from graphpress.quantization.refinement.outputs import OutputError, decibels
from graphpress.quantization.refinement.refine import (
    Choice,
    Progress,
    Refinement,
    Step,
    exact_mode,
    forget,
    refine_layer,
    rounded_mode,
)
from graphpress.quantization.refinement.running import Inputs, StepwiseRun
from graphpress.quantization.smoothing import SmoothedLayers

_PERCENTILES = (99.99, 99.9)
# The error must fall to this share by a choice for all, and for one quantizer or layer: of many choices, which few
# held-out batches decide, some lower the error by chance.
_FALLS_BY_ALL, _FALLS_BY_ONE = 0.98, 0.95


def select(
    module: fx.GraphModule,
    batches: Sequence[Inputs],
    config: QuantizerConfig,
    smoothed: SmoothedLayers,
    memory: int,
    progress: Progress | None = None,
) -> Refinement:
    """Choose smoothing, ranges, codes and bias corrections, each only if the error falls, of a model in eval mode.

    Earlier results are discarded first. Quantizers must have ranges. Every step runs the model once or twice from the
    quantizer or layer on, so their number is linear in that of quantizers and layers.

    Args:
        smoothed: the layers that can be smoothed, with factors of 1.
        progress: called with the number of visits of quantizers and layers so far, and their total.
    """
    assert config.selection is not None
    forget(module)
    _search_once(module)
    fitted, held_out = _divided(batches, config.selection.held_out)
    corrections = correction_buffers(module)
    error = OutputError(
        module,
        held_out,
        memory // 2,
        lambda: exact_mode(module, corrections),
        lambda: rounded_mode(module),
    )
    report = Refinement()
    if error.is_defined:
        selecting = _Selecting(module, error, config, config.selection, report, memory // 2, progress)
        if smoothed.places:
            selecting.smooth(smoothed, batches)
        selecting.choose_ranges()
        selecting.remove_the_worst()
        selecting.choose_codes(fitted)
    return report


def _divided(batches: Sequence[Inputs], share: float) -> tuple[Sequence[Inputs], Sequence[Inputs]]:
    """Return the batches that codes are chosen from, and those held out: at least one, but not all of several."""
    if len(batches) == 1:
        return batches, batches
    first = len(batches) - min(max(1, int(share * len(batches))), len(batches) - 1)
    return batches[:first], batches[first:]


def _search_once(module: fx.GraphModule) -> None:
    """Keep the ranges of least error of weights, which would be searched for whenever a weight is read anew."""
    for layer in refinable_layers(module):
        calculator = layer.quantizer.calculator
        if layer.takes_codes and isinstance(calculator, MseQParamsCalculator):
            layer.quantizer.chosen_range = torch.stack(calculator.search(layer.read_weight()))


@frozen
class _Site:
    """An activation quantizer at the first node that calls it."""

    node: fx.Node
    quantizer: FakeQuantize


@frozen
class _WeightChoice:
    """The choices about the weight and bias of a layer, to be restored."""

    layer: RefinableLayer
    offset: Tensor | None
    correction: Tensor | None

    @classmethod
    def of(cls, layer: RefinableLayer) -> _WeightChoice:
        return cls(layer, layer.quantizer.code_offset, None if layer.correction is None else layer.correction.clone())

    def restore(self) -> None:
        self.layer.quantizer.code_offset = self.offset
        if self.correction is not None and self.layer.correction is not None:
            self.layer.correction.copy_(self.correction)


@define(eq=False)
class _Selecting:
    module: fx.GraphModule
    error: OutputError
    config: QuantizerConfig
    options: Selection
    report: Refinement
    memory: int
    progress: Progress | None
    _now: float = field(init=False)
    _sites: list[_Site] = field(init=False)
    _layers: list[RefinableLayer] = field(init=False)
    _costs: dict[int, float] = field(factory=dict)
    _start: float = field(factory=time.monotonic)
    _visited: int = 0
    _steps: int = 0

    def __attrs_post_init__(self) -> None:
        self._now = self.error.whole()
        self._sites = list(_sites(self.module))
        self._layers = refinable_layers(self.module)
        self._steps = len(self._sites)

    # smoothing

    def smooth(self, smoothed: SmoothedLayers, batches: Sequence[Inputs]) -> None:
        """Smooth all layers, with the strength of the config or one midway between it and 1."""
        magnitudes = smoothed.magnitudes(batches)
        for strength in (smoothed.strength, (smoothed.strength + 1) / 2):
            if self._is_late():
                return
            before, searched = smoothed.state(), [layer.quantizer.chosen_range for layer in self._layers]
            smoothed.smooth(batches, magnitudes, strength)
            _search_once(self.module)
            if not self._keeps(Choice.SMOOTHED, "", self.error.whole()):
                smoothed.restore(before)
                for layer, chosen in zip(self._layers, searched, strict=True):
                    layer.quantizer.chosen_range = chosen

    # ranges

    def choose_ranges(self) -> None:
        """Choose the kind of range of all quantizers together, then of each that matters."""
        for choice, place in ((Choice.WHOLE_RANGES, 0), (Choice.PERCENTILES, 1)):
            self._try_everywhere(choice, place)
        self.error.restart()
        for site in self._sites:
            if self._is_late():
                return
            self.error.advance_to(site.node)
            self._choose_range(site)
            self._advance()

    def _try_everywhere(self, choice: Choice, place: int) -> None:
        before = [(site.quantizer, site.quantizer.chosen_range) for site in self._sites]
        for site in self._sites:
            ranges = _ranges(site.quantizer)
            site.quantizer.chosen_range = ranges[place] if place < len(ranges) else None
        if not self._keeps(choice, "", self.error.whole()):
            for quantizer, chosen in before:
                quantizer.chosen_range = chosen

    def _choose_range(self, site: _Site) -> None:
        quantizer = site.quantizer
        quantizer.removed = torch.ones((), dtype=torch.uint8)
        without = self.error.resumed(site.node)
        quantizer.removed = None
        self._costs[id(quantizer)] = self._now - without
        if without > self._now * _FALLS_BY_ONE:  # no range gains more than none
            return
        best = quantizer.chosen_range
        for chosen in (None, *_ranges(quantizer)):
            quantizer.chosen_range = chosen
            if self._keeps(Choice.RANGE, quantizer.name, self.error.resumed(site.node)):
                best = chosen
        quantizer.chosen_range = best
        self._costs[id(quantizer)] = self._now - without

    def remove_the_worst(self) -> None:
        """Remove the quantizers that cost most, while each removal gains enough."""
        most = int(self.options.most_removed * len(self._sites))
        ordered = sorted(self._sites, key=lambda site: self._costs.get(id(site.quantizer), 0.0), reverse=True)
        for site in ordered[:most]:
            if self._is_late():
                return
            site.quantizer.removed = torch.ones((), dtype=torch.uint8)
            without = self.error.whole()
            if decibels(without) - decibels(self._now) < self.options.least_gain:
                site.quantizer.removed = None
                return
            self._keeps(Choice.REMOVED, site.quantizer.name, without)

    # codes

    def choose_codes(self, batches: Sequence[Inputs]) -> None:
        """Choose ranges and codes of the weights, then bias corrections.

        They are chosen for all layers together: with a choice for each layer, what fits the held-out batches by chance
        adds up. Only if no rounding lowers the error in all layers, codes are chosen for each.
        """
        roundings = [
            attrs.evolve(self.config, weight_rounding=how, bias_correction=BiasCorrection.NONE)
            for how in _roundings(self.config.weight_rounding)
        ]
        correction = attrs.evolve(self.config, weight_rounding=NearestRounding())
        corrects = correction.bias_correction is not BiasCorrection.NONE
        self._steps += len(self._layers) * (len(roundings) + corrects)
        self._try_weight_ranges()
        fell = [self._try_in_all(Choice.CODES, rounding, batches) for rounding in roundings]
        if roundings and not any(fell):
            self._steps += len(self._layers)
            self._choose_in_each(roundings, batches)
        if corrects:
            self._try_in_all(Choice.BIAS, correction, batches)

    def _try_weight_ranges(self) -> None:
        layers = [layer for layer in self._layers if layer.quantizer.chosen_range is not None]
        searched = [layer.quantizer.chosen_range for layer in layers]
        for layer in layers:
            calculator = layer.quantizer.calculator
            ends = calculator.range_calculator(layer.read_weight(), calculator.block_size)
            layer.quantizer.chosen_range = torch.stack(ends)
        if not self._keeps(Choice.WEIGHT_RANGES, "", self.error.whole()):
            for layer, chosen in zip(layers, searched, strict=True):
                layer.quantizer.chosen_range = chosen

    def _try_in_all(self, choice: Choice, config: QuantizerConfig, batches: Sequence[Inputs]) -> bool:
        before = [_WeightChoice.of(layer) for layer in self._layers]
        for layer, exact, rounded in self._runs(batches):
            refine_layer(layer, exact, rounded, config, self.report)
        kept = self._keeps(choice, "", self.error.whole())
        for each in before if not kept else ():
            each.restore()
        return kept

    def _choose_in_each(self, configs: Sequence[QuantizerConfig], batches: Sequence[Inputs]) -> None:
        self.error.restart()
        for layer, exact, rounded in self._runs(batches):
            self.error.advance_to(layer.node)
            for config in configs:
                before = _WeightChoice.of(layer)
                refine_layer(layer, exact, rounded, config, self.report)
                if not self._keeps(Choice.CODES, layer.node.name, self.error.resumed(layer.node)):
                    before.restore()

    def _runs(self, batches: Sequence[Inputs]) -> Iterator[tuple[RefinableLayer, StepwiseRun, StepwiseRun]]:
        """Yield each layer with runs of the float and the quantized model that advanced to it, while there is time."""
        corrections = correction_buffers(self.module)
        exact = StepwiseRun(self.module, batches, self.memory, lambda: exact_mode(self.module, corrections))
        rounded = StepwiseRun(self.module, batches, self.memory, lambda: rounded_mode(self.module))
        for layer in self._layers:
            if self._is_late():
                return
            exact.advance_to(layer.node)
            rounded.advance_to(layer.node)
            yield layer, exact, rounded
            self._advance()

    # bookkeeping

    def _keeps(self, choice: Choice, name: str, error: float) -> bool:
        """Record `error` and return True if it is below the present one by more than chance."""
        if not error < self._now * (_FALLS_BY_ONE if name else _FALLS_BY_ALL):
            return False
        self.report.steps.append(Step(choice, name, decibels(self._now), decibels(error)))
        self._now = error
        return True

    def _is_late(self) -> bool:
        return self.options.seconds is not None and time.monotonic() - self._start > self.options.seconds

    def _advance(self) -> None:
        self._visited += 1
        if self.progress is not None:
            self.progress(self._visited, self._steps)


def _sites(module: fx.GraphModule) -> Iterator[_Site]:
    """Yield the activation quantizers whose ranges come from data, in execution order."""
    for node, quantizer in activation_quantizers(module):
        if isinstance(quantizer, FakeQuantize) and quantizer.spec.float_range == (None, None):
            yield _Site(node, quantizer)


def _ranges(quantizer: FakeQuantize) -> list[Tensor]:
    """Return the whole range of the data that `quantizer` saw, then the ranges of percentiles."""
    calculator = quantizer.calculator
    if not isinstance(calculator, HistogramCalculatorBase):
        return []
    ranges = [(calculator.running_min, calculator.running_max)]
    ranges += [calculator.percentile_range(percentile) for percentile in _PERCENTILES]
    return [torch.stack(ends) for ends in ranges]


def _roundings(how: WeightRounding) -> list[WeightRounding]:
    """Return the roundings to try: the one of the config, and GPTQ also without regard to earlier layers."""
    if isinstance(how, NearestRounding):
        return []
    if isinstance(how, GPTQRounding) and how.asymmetric:
        return [attrs.evolve(how, asymmetric=False), how]
    return [how]

"""Optimize weight rounding and correct biases, layer by layer in execution order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor, fx

from graphpress.layer_inputs import InputMoments, fitted_weight, output_error
from graphpress.passes.config import AdaptiveRounding, BiasCorrection, GPTQRounding, QuantizerConfig, WeightRounding
from graphpress.quantization.batch_norm import BatchNormLayer
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.refinement.column_blocks import ColumnBlocks
from graphpress.quantization.refinement.layers import RefinableLayer, attribute, correction_buffers, refinable_layers
from graphpress.quantization.refinement.rounding import Grid, adaptive_places, gptq_places, offset_to
from graphpress.quantization.refinement.running import Inputs, StepwiseRun
from graphpress.quantization.switches import quantizers_of, switched

_RELU = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


def analytic_shift(module: fx.GraphModule, layer: RefinableLayer) -> Tensor | None:
    """Return the shift of each output channel's mean by weight rounding, float64.

    The result is None if no batch norm determines the mean of the layer's input.
    """
    mean = _input_mean(module, layer.input)
    if mean is None:
        return None
    weight = layer.read_weight()
    qparams = layer.quantizer.qparams(weight)
    if qparams is None:
        return None
    lost = layer.matrix.to_matrices(layer.quantizer.quantize(weight, qparams).double() - weight.double())
    groups, outputs = lost.shape[:2]
    per_input = lost.reshape(groups, outputs, mean.numel() // groups, -1).sum(-1)
    return (per_input @ mean.reshape(groups, -1, 1)).reshape(groups * outputs)


def _input_mean(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """Return ``E[x]`` per channel of the output of `node`, or None if unknown."""
    if node.op == "call_function" and node.target in _RELU:
        moments = _moments(module, node.args[0])
        if moments is None:
            return None
        beta, gamma = moments
        ratio = beta / gamma.clamp(min=1e-30)
        density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
        return gamma * density + beta * torch.special.ndtr(ratio)
    if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), FakeQuantizeImplBase):
        return _input_mean(module, node.args[0])  # type: ignore[arg-type]
    moments = _moments(module, node)
    return None if moments is None else moments[0]


def _moments(module: fx.GraphModule, node: fx.node.Argument) -> tuple[Tensor, Tensor] | None:
    """Return mean and standard deviation per channel of a layer's output, from its folded batch norm."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    called = module.get_submodule(str(node.target))
    if isinstance(called, FakeQuantizeImplBase):
        return _moments(module, node.args[0])
    if not isinstance(called, BatchNormLayer):
        return None
    norm, parameters = called.norm, node.args[1:]

    def read(place: int) -> Tensor:
        argument = parameters[place]
        assert isinstance(argument, fx.Node)
        return attribute(module, argument).detach().double()

    variance = read(norm.running_var)
    mean = torch.zeros_like(variance) if norm.bias is None else read(norm.bias)
    deviation = torch.ones_like(variance) if norm.weight is None else read(norm.weight).abs()
    for is_scale, place in norm.after:
        if is_scale:  # the shift is the rounding correction, which the float model lacks
            mean, deviation = mean * read(place), deviation * read(place).abs()
    return mean, deviation


# Maximum bytes of calibration inputs, and of intermediate values of each of the two models.
MEMORY = 1 << 30
# Maximum rows of a layer's input for its moments, enough for their rank.
ROWS_PER_COLUMN, LEAST_ROWS = 8, 16384


Progress = Callable[[int, int], None]


class Choice(StrEnum):
    """A kind of choice by the output error."""

    SMOOTHED = "smoothed"
    WHOLE_RANGES = "whole ranges"
    PERCENTILES = "percentiles"
    RANGE = "range"
    WEIGHT_RANGES = "weight ranges"
    REMOVED = "removed"
    CODES = "codes"
    BIAS = "bias"


@frozen
class Step:
    """A choice that lowered the output error.

    Attributes:
        choice: what was chosen.
        name: the quantizer or the layer's node; empty for all of them.
        before, after: decibels of the outputs on the held-out batches.
    """

    choice: Choice
    name: str
    before: float
    after: float


@define
class Refinement:
    """Results of weight rounding and bias correction, by the name of the layer's node.

    Attributes:
        errors: the squared error that rounding adds to the layer's output, to nearest and as chosen, both relative to
            the energy of the output. With asymmetric rounding it is relative to the best unrounded weight.
        left: the reasons why layers are rounded to nearest.
        steps: the choices that a `Selection` kept, in order.
    """

    errors: dict[str, tuple[float, float]] = field(factory=dict)
    left: dict[str, str] = field(factory=dict)
    steps: list[Step] = field(factory=list)


def refine(
    module: fx.GraphModule,
    batches: Sequence[Inputs],
    config: QuantizerConfig,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Refinement:
    """Optimize weight rounding and correct biases by `config`, from inputs of a prepared model in eval mode.

    Earlier results are discarded first. Quantizers must have ranges.
    `progress` is called with the number of layers done and their total.
    """
    report = Refinement()
    layers = refinable_layers(module)
    corrections = [layer.correction for layer in layers if layer.correction is not None]
    forget(module)
    exact = StepwiseRun(module, batches, memory, lambda: exact_mode(module, corrections))
    rounded = StepwiseRun(module, batches, memory, lambda: rounded_mode(module))
    for done, layer in enumerate(layers, 1):
        if _needs_float_model(config):
            exact.advance_to(layer.node)
        rounded.advance_to(layer.node)
        refine_layer(layer, exact, rounded, config, report)
        if progress is not None:
            progress(done, len(layers))
    return report


def refine_layer(
    layer: RefinableLayer, exact: StepwiseRun, rounded: StepwiseRun, config: QuantizerConfig, report: Refinement
) -> None:
    """Optimize the weight rounding of one layer and correct its bias, from runs that advanced to its node."""
    if isinstance(config.weight_rounding, GPTQRounding | AdaptiveRounding):
        if layer.takes_codes:
            _choose_codes(layer, exact, rounded, config.weight_rounding, report)
        else:
            report.left[layer.node.name] = "another layer uses its quantizer, or the quantizer is user-defined"
    if config.bias_correction is BiasCorrection.EMPIRICAL and layer.correction is not None:
        _correct_bias(layer, layer.correction, exact, rounded)
    if config.bias_correction is BiasCorrection.ANALYTIC:
        _correct_by_norm(rounded.module, layer)


def _needs_float_model(config: QuantizerConfig) -> bool:
    return _is_asymmetric(config.weight_rounding) or config.bias_correction is BiasCorrection.EMPIRICAL


def _is_asymmetric(how: WeightRounding) -> bool:
    return isinstance(how, AdaptiveRounding) or (isinstance(how, GPTQRounding) and how.asymmetric)


def correct_biases_without_data(module: fx.GraphModule) -> None:
    """Correct the bias of every layer whose input comes from a batch norm, by the norm's statistics."""
    for layer in refinable_layers(module):
        _correct_by_norm(module, layer)


def _correct_by_norm(module: fx.GraphModule, layer: RefinableLayer) -> None:
    shift = analytic_shift(module, layer) if layer.correction is not None else None
    if shift is not None and layer.correction is not None and bool(torch.isfinite(shift).all()):
        layer.correction.copy_(-shift)


def forget(module: fx.GraphModule) -> None:
    """Reset weights to nearest rounding, biases to uncorrected values, and ranges to those of the calculators."""
    for quantizer in quantizers_of(module):
        quantizer.code_offset = quantizer.chosen_range = quantizer.removed = None
    for buffer in correction_buffers(module):
        buffer.zero_()


@contextmanager
def kept(module: fx.GraphModule) -> Iterator[Callable[[], None]]:
    """Discard earlier results inside the context; the yielded function restores them, as does an exception."""
    chosen = [(q, q.code_offset, q.chosen_range, q.removed) for q in quantizers_of(module)]
    corrections = [(buffer, buffer.clone()) for buffer in correction_buffers(module)]

    def restore() -> None:
        for quantizer, *choices in chosen:
            quantizer.code_offset, quantizer.chosen_range, quantizer.removed = choices
        for buffer, correction in corrections:
            buffer.copy_(correction)

    forget(module)
    try:
        yield restore
    except BaseException:
        restore()
        raise


def _choose_codes(
    layer: RefinableLayer, exact: StepwiseRun, rounded: StepwiseRun, how: WeightRounding, report: Refinement
) -> None:
    weight = layer.read_weight()
    qparams = layer.quantizer.qparams(weight)
    if qparams is None:
        report.left[layer.node.name] = "its quantizer has no range"
        return
    moments = InputMoments()
    blocks = ColumnBlocks.of(layer.matrix.columns)
    most = max(LEAST_ROWS, ROWS_PER_COLUMN * blocks.size) // len(rounded.batches) + 1

    def rows(data: Tensor) -> Tensor:
        return blocks.split_inputs(layer.matrix.rows(data, most))

    def arrange(parameter: Tensor) -> Tensor:
        return blocks.split(layer.matrix.to_matrices(parameter))

    if _is_asymmetric(how):
        both = zip(rounded.operand(layer.node, layer.input), exact.operand(layer.node, layer.input), strict=True)
        for seen, own in both:
            moments.add(rows(seen), rows(own))
    else:
        for seen in rounded.operand(layer.node, layer.input):
            moments.add(rows(seen))
    if not moments.rows or not bool(torch.isfinite(moments.quantized).all() and torch.isfinite(moments.cross).all()):
        report.left[layer.node.name] = "its inputs are empty or not finite"
        return
    cpu = tuple(None if p is None else p.cpu() for p in qparams)
    grid = Grid.of(layer.quantizer.spec, cpu, tuple(weight.shape), arrange)  # type: ignore[arg-type]
    matrices = arrange(weight.cpu()).float()
    nearest = grid.places(matrices)
    wanted = matrices.double()
    if _is_asymmetric(how):
        wanted = fitted_weight(matrices, moments, how.damping if isinstance(how, GPTQRounding) else 0.01)
    chosen = _places(matrices, wanted, moments, grid, how)
    # Output rows have independent errors, so each takes the better codes.
    errors = [output_error(matrices, grid.values(places), moments) for places in (nearest, chosen)]
    places = torch.where((errors[1] < errors[0])[..., None], chosen, nearest)
    offset = layer.matrix.from_matrices(blocks.join(offset_to(grid, matrices, places))).contiguous()
    layer.quantizer.code_offset = offset.to(weight.device)
    report.errors[layer.node.name] = (
        _added_error(wanted, grid.values(nearest), moments),
        _added_error(wanted, grid.values(places), moments),
    )


def _places(weight: Tensor, wanted: Tensor, moments: InputMoments, grid: Grid, how: WeightRounding) -> Tensor:
    if isinstance(how, AdaptiveRounding):
        return adaptive_places(weight, moments, grid, how)
    assert isinstance(how, GPTQRounding)
    return gptq_places(wanted, moments.quantized, grid, damping=how.damping, activation_order=how.activation_order)


def _added_error(weight: Tensor, quantized: Tensor, moments: InputMoments) -> float:
    """Return the relative output error of rounding, ``E[((q - w) x)^2] / E[(w x)^2]``."""
    w, lost = weight.double(), quantized.double() - weight.double()
    energy = float(((w @ moments.quantized) * w).sum())
    return float(((lost @ moments.quantized) * lost).sum()) / energy if energy > 0 else 0.0


def _correct_bias(layer: RefinableLayer, correction: Tensor, exact: StepwiseRun, rounded: StepwiseRun) -> None:
    """Add the shift of each output channel's mean to the bias correction."""
    difference, count = torch.zeros(correction.shape, dtype=torch.float64), 0
    for wanted, got in zip(exact.results(layer.node), rounded.results(layer.node), strict=True):
        sums, elements = layer.channel_means(wanted)
        difference += sums - layer.channel_means(got)[0]
        count += elements
    if count and bool(torch.isfinite(difference).all()):
        correction += (difference / count).to(correction)


def rounded_mode(module: fx.GraphModule) -> AbstractContextManager[Any]:
    """Run the quantized model inside the context."""
    return switched(module, observer=False, fake_quant=True)


@contextmanager
def exact_mode(module: fx.GraphModule, buffers: Sequence[Tensor]) -> Iterator[None]:
    """Run the float model inside the context, without rounding and corrections."""
    saved = [buffer.clone() for buffer in buffers]
    for buffer in buffers:
        buffer.zero_()
    try:
        with switched(module, observer=False, fake_quant=False):
            yield
    finally:
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)

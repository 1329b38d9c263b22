"""What each activation quantizer alone costs in the outputs of a prepared model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from attrs import define, field, frozen
from torch import Tensor, fx

from graphpress.ir import reference
from graphpress.passes.weights.quantize import QParams
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, codes_of
from graphpress.quantization.refinement.layers import activation_quantizers, correction_buffers
from graphpress.quantization.refinement.outputs import OutputError, decibels
from graphpress.quantization.refinement.refine import MEMORY, Progress, exact_mode
from graphpress.quantization.refinement.running import Inputs


@frozen
class QuantizerCost:
    """The cost of an activation quantizer.

    Attributes:
        name: the quantizer.
        low, high: the least and the greatest value that its codes represent; of several blocks, in any of them.
        percentile: percent of the values that lie within the range of their block.
        decibels: signal to noise of the outputs with this quantizer alone; infinite without any error.
    """

    name: str
    low: float
    high: float
    percentile: float
    decibels: float


def quantizer_costs(
    module: fx.GraphModule, batches: Sequence[Inputs], memory: int = MEMORY, progress: Progress | None = None
) -> list[QuantizerCost]:
    """Measure every activation quantizer of a calibrated module in eval mode, the most expensive first.

    The float model runs once; each quantizer takes one more run, from its node on.

    Args:
        batches: arguments of the module.
        memory: maximum bytes of the outputs and of intermediate values to keep.
        progress: called with the number of quantizers done and their total.
    """
    alone = _Alone(module, correction_buffers(module))
    error = OutputError(module, batches, memory // 2, alone.mode, alone.mode)
    sites = list(activation_quantizers(module))
    costs = []
    for done, (node, quantizer) in enumerate(sites, 1):
        alone.quantizer = None
        error.advance_to(node)
        inside = _percent_inside(quantizer, error.values_before(node))
        alone.quantizer = quantizer
        lost = error.resumed(node)
        costs.append(QuantizerCost(quantizer.name, *_ends(quantizer), inside, decibels(lost)))
        if progress is not None:
            progress(done, len(sites))
    return sorted(costs, key=lambda cost: cost.decibels)


@define(eq=False)
class _Alone:
    """The float model with one quantizer, or none."""

    module: fx.GraphModule
    corrections: Sequence[Tensor]
    quantizer: FakeQuantizeImplBase | None = field(default=None)

    @contextmanager
    def mode(self) -> Iterator[None]:
        with exact_mode(self.module, self.corrections):
            if self.quantizer is not None:
                self.quantizer.fake_quant_enabled = True
            yield


def _ends(quantizer: FakeQuantizeImplBase) -> tuple[float, float]:
    far = torch.finfo(torch.float32).max / 4
    scale, zero_point, minval = _parameters(quantizer)
    low, high = (
        reference.fake_quantize(torch.full_like(scale, end), scale, zero_point, minval, **codes_of(quantizer.spec))
        for end in (-far, far)
    )
    return float(low.min()), float(high.max())


def _parameters(quantizer: FakeQuantizeImplBase) -> QParams:
    qparams = quantizer.qparams()
    assert qparams is not None
    return qparams


def _percent_inside(quantizer: FakeQuantizeImplBase, values: Iterator[Tensor]) -> float:
    inside = total = 0
    for value in values:
        _, mask = reference.fake_quantize_and_mask(value, *_parameters(quantizer), **codes_of(quantizer.spec))
        inside += int(mask.sum())
        total += value.numel()
    return 100.0 * inside / max(1, total)

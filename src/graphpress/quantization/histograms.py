"""Calculators of least squared error and of a percentile: of a histogram of what was seen, or of a whole weight.

A bin is one sign, one exponent and the first bits of the mantissa: an octave has `bins_per_octave` of them. Bins need
no range to be known before, so that an early outlier costs nothing, and a histogram does not depend on the order of
the data or on how it was cut into batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from graphpress.modules.remembering import Remembered
from graphpress.passes.config import QuantizationScheme, QuantizationSpec
from graphpress.passes.weights.quantize import QParams
from graphpress.quantization.calculators import (
    QParamsCalculatorBase,
    StatefulQParamsCalculatorBase,
    StatelessQParamsCalculatorBase,
)
from graphpress.quantization.squared_error import (
    fake_quantized,
    in_blocks,
    least_error_range,
    widest_ratio,
)

_CHUNK = 1 << 16  # elements that are quantized at once: they stay in the cache


class HistogramCalculatorBase(StatefulQParamsCalculatorBase):
    """Base of calculators that count values in bins.

    Buffers beside those of the base: `keys` (int64, ascending: the block of a bin, then the leading bits of the values
    in it) and `counts` (int64).
    """

    growing: ClassVar[tuple[str, ...]] = ("running_min", "running_max", "keys", "counts")
    keys: Tensor
    counts: Tensor

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = (), *, bins_per_octave: int = 128) -> None:
        super().__init__(spec, block_size)
        self.bins_per_octave = bins_per_octave
        self.register_buffer("keys", torch.zeros(0, dtype=torch.long))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.long))

    @property
    def _mantissa_bits(self) -> int:
        return self.bins_per_octave.bit_length() - 1

    @property
    def _bins_per_block(self) -> int:
        return 1 << (9 + self._mantissa_bits)  # a sign, 8 bits of exponent

    def remember(self, data: Tensor, low: Tensor, high: Tensor) -> None:
        """Widen the range and count the values."""
        if self.observations == 1:
            self.running_min, self.running_max = low.clone(), high.clone()
        else:
            self.running_min = torch.minimum(self.running_min, low)
            self.running_max = torch.maximum(self.running_max, high)
        blocks = in_blocks(data.detach().float(), self.block_size).contiguous()
        bins = (blocks.view(torch.int32) >> (23 - self._mantissa_bits)) & (self._bins_per_block - 1)
        if len(blocks) == 1:
            dense = torch.bincount(bins.reshape(-1), minlength=self._bins_per_block)
            dense.index_add_(0, self.keys, self.counts)
            self.keys = dense.nonzero().reshape(-1)
            self.counts = dense[self.keys]
            return
        offsets = torch.arange(len(blocks), device=blocks.device).reshape(-1, 1) * self._bins_per_block
        keys, counts = torch.unique(bins.long() + offsets, return_counts=True)
        self.keys, place = torch.unique(torch.cat([self.keys, keys]), return_inverse=True)
        self.counts = torch.zeros_like(self.keys).index_add_(0, place, torch.cat([self.counts, counts]))

    def histogram(self, block: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower ends, upper ends and counts of the bins of a block that hold values, in ascending order (float64)."""
        first, last = (int(torch.searchsorted(self.keys, edge * self._bins_per_block)) for edge in (block, block + 1))
        keys = (self.keys[first:last] % self._bins_per_block).cpu().numpy()
        half, shift = self._bins_per_block // 2, 23 - self._mantissa_bits
        negative, magnitude = keys >= half, keys % half
        near, far = (
            (edge << shift).astype(np.int32).view(np.float32).astype(np.float64) for edge in (magnitude, magnitude + 1)
        )
        lower, upper = np.where(negative, -far, near), np.where(negative, -near, far)
        order = np.argsort(lower, kind="stable")
        return lower[order], upper[order], self.counts[first:last].cpu().numpy()[order].astype(np.float64)


@QParamsCalculatorBase.register("histogram")
class HistogramQParamsCalculator(HistogramCalculatorBase):
    """The range at which the squared error of all values seen, spread evenly over their bins, is least.

    For weights ``"histogram"`` means ``"mse"``: their values need no bins.
    """

    def suited(self, *, is_state: bool) -> QParamsCalculatorBase:
        """See the class."""
        return MseQParamsCalculator(self.spec, self.block_size) if is_state else self

    def _from_running_range(self) -> QParams | None:
        if super()._from_running_range() is None or None not in self.spec.float_range:
            return super()._from_running_range()
        blocks = [self.histogram(block) for block in range(self.running_min.numel())]

        def error(lows: Tensor, highs: Tensor) -> np.ndarray:
            qparams = self.from_range(lows, highs)
            return np.stack(
                [
                    self._error(*blocks[block], [None if p is None else p[:, block] for p in qparams])
                    for block in range(lows.shape[1])
                ],
                axis=1,
            )

        found = least_error_range(
            self.running_min.reshape(-1),
            self.running_max.reshape(-1),
            error,
            independent=self.spec.qscheme is QuantizationScheme.ASYMMETRIC,
            widest=widest_ratio(self.spec),
        )
        return self.from_range(*(end.reshape(self.running_min.shape) for end in found))

    def _error(
        self, lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, qparams: Sequence[Tensor | None]
    ) -> np.ndarray:
        """The expected squared error of the values in the bins, for each of the candidates."""
        if self.spec.element_type.is_floating:
            middle = torch.from_numpy((lower + upper) / 2).float().reshape(1, -1)
            scales = [None if p is None else p.reshape(-1, 1) for p in qparams]
            middles = middle.expand(len(scales[0]), -1).contiguous()  # type: ignore[arg-type]
            lost = (fake_quantized(middles, scales, self.spec) - middle).double().square().numpy()
            return (lost * counts).sum(1)
        scale, zero_point, minval = (None if p is None else p.double().numpy().reshape(-1, 1) for p in qparams)
        assert scale is not None
        low, high = int(self.spec.quant_min), int(self.spec.quant_max)
        origin = np.zeros_like(scale) if minval is None else minval
        first = np.zeros_like(scale)  # the least whole number that a code stands for
        if minval is None:
            first = first + low - (0 if zero_point is None else zero_point)
        start, end = (lower - origin) / scale, (upper - origin) / scale
        return (counts * _mean_error(start, end, first, first + high - low) * scale**2).sum(1)


def _mean_error(start: np.ndarray, end: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The mean squared error of rounding the numbers from `start` to `end` to whole ones from `first` to `last`."""

    def integral(values: np.ndarray) -> np.ndarray:
        inside = np.clip(values, first, last)
        nearest = np.round(inside)
        lost, clipped = inside - nearest, values - inside
        return nearest / 12 + (lost * lost * lost + clipped * clipped * clipped) / 3  # a power takes ten times as long

    width, middle = end - start, (start + end) / 2
    at_middle = np.square(middle - np.round(np.clip(middle, first, last)))
    is_point = width < 1e-3  # a difference of integrals would have no digits left
    return np.where(is_point, at_middle, (integral(end) - integral(start)) / np.where(is_point, 1.0, width))


@QParamsCalculatorBase.register("percentile")
class PercentileQParamsCalculator(HistogramCalculatorBase):
    """The range that leaves out the outermost values.

    With a symmetric scheme `percentile` percent of the magnitudes lie in the range; with an asymmetric one as many
    percent lie above its lower end, and below its upper end. Of all values seen, as evenly spread over their bins.

    Args:
        percentile: from 50 to 100.
    """

    def __init__(
        self,
        spec: QuantizationSpec,
        block_size: Sequence[int] = (),
        *,
        percentile: float = 99.99,
        bins_per_octave: int = 128,
    ) -> None:
        super().__init__(spec, block_size, bins_per_octave=bins_per_octave)
        self.percentile = percentile

    def suited(self, *, is_state: bool) -> QParamsCalculatorBase:
        """Of a weight the values are known, not only their bins."""
        if not is_state:
            return self
        return WeightPercentileQParamsCalculator(self.spec, self.block_size, percentile=self.percentile)

    def _from_running_range(self) -> QParams | None:
        if super()._from_running_range() is None or None not in self.spec.float_range:
            return super()._from_running_range()
        ends = [self._ends(*self.histogram(block)) for block in range(self.running_min.numel())]
        low, high = (torch.tensor(end).float().reshape(self.running_min.shape) for end in zip(*ends, strict=True))
        return self.from_range(torch.maximum(low, self.running_min), torch.minimum(high, self.running_max))

    def _ends(self, lower: np.ndarray, upper: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
        if self.spec.qscheme is QuantizationScheme.ASYMMETRIC:
            above = _quantile(lower, upper, counts, self.percentile / 100)
            below = _quantile(lower, upper, counts, 1 - self.percentile / 100)
            return below, above
        near, far = np.minimum(abs(lower), abs(upper)), np.maximum(abs(lower), abs(upper))
        order = np.argsort(near, kind="stable")
        magnitude = _quantile(near[order], far[order], counts[order], self.percentile / 100)
        return -magnitude, magnitude


def _quantile(lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, fraction: float) -> float:
    total = counts.cumsum()
    wanted = fraction * total[-1]
    at = min(int(np.searchsorted(total, wanted)), len(total) - 1)
    part = (wanted - (total[at] - counts[at])) / counts[at]
    return float(lower[at] + part * (upper[at] - lower[at]))


class WeightPercentileQParamsCalculator(StatelessQParamsCalculatorBase):
    """The same percentile, of each block of a weight itself."""

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = (), *, percentile: float = 99.99) -> None:
        super().__init__(spec, block_size)
        self.percentile = percentile

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """From the percentiles of the blocks of `data`."""
        if data is None:
            return None
        low, _ = self.range_calculator(data, self.block_size)
        blocks = in_blocks(data.detach().float(), self.block_size).numpy()
        if self.spec.qscheme is QuantizationScheme.ASYMMETRIC:
            ends = np.percentile(blocks, [100 - self.percentile, self.percentile], axis=1)
        else:
            magnitude = np.percentile(abs(blocks), self.percentile, axis=1)
            ends = np.stack([-magnitude, magnitude])
        below, above = (torch.from_numpy(np.asarray(end, dtype=np.float32)).reshape(low.shape) for end in ends)
        return self.from_range(below, above)


@QParamsCalculatorBase.register("mse")
class MseQParamsCalculator(StatelessQParamsCalculatorBase):
    """For each block the range at which the squared error of the quantized block is least.

    The error is that of the formulas themselves, summed in float64 in one order, so the result depends on nothing but
    the tensor. For activations ``"mse"`` means ``"histogram"``.

    Args:
        candidates: ranges that are tried at first; finer ones follow round the best.
    """

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = (), *, candidates: int = 32) -> None:
        super().__init__(spec, block_size)
        self.candidates = candidates
        self._known = Remembered[QParams]()

    def suited(self, *, is_state: bool) -> QParamsCalculatorBase:
        """See the class."""
        return self if is_state else HistogramQParamsCalculator(self.spec, self.block_size)

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """The parameters of least error for `data`."""
        return None if data is None else self._known.get((data,), lambda: self._search(data))

    def _search(self, data: Tensor) -> QParams:
        low, high = self.range_calculator(data, self.block_size)
        if None not in self.spec.float_range or not data.numel():
            return self.from_range(low, high)
        blocks = in_blocks(data.detach().float(), self.block_size)
        shape = low.shape

        def error(lows: Tensor, highs: Tensor) -> np.ndarray:
            flat = [self._error(blocks, *each) for each in zip(lows.flatten(1), highs.flatten(1), strict=True)]
            return np.stack(flat)

        found = least_error_range(
            low.reshape(-1),
            high.reshape(-1),
            error,
            independent=self.spec.qscheme is QuantizationScheme.ASYMMETRIC,
            candidates=self.candidates,
            widest=widest_ratio(self.spec),
        )
        return self.from_range(*(end.reshape(shape) for end in found))

    def _error(self, blocks: Tensor, low: Tensor, high: Tensor) -> np.ndarray:
        """The squared error of each row of `blocks` in the range of its own."""
        qparams = [None if p is None else p.reshape(-1, 1) for p in self.from_range(low, high)]
        total = np.zeros(len(blocks))
        rows = max(1, _CHUNK // max(1, blocks.shape[1]))
        for first in range(0, len(blocks), rows):
            part = [None if p is None else p[first : first + rows] for p in qparams]
            for start in range(0, blocks.shape[1], _CHUNK):
                piece = blocks[first : first + rows, start : start + _CHUNK]
                lost = fake_quantized(piece, part, self.spec).sub_(piece).square_()
                total[first : first + rows] += lost.numpy().sum(1, dtype=np.float64)
        return total

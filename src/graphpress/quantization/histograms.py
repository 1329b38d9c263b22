"""Range calculators by least squared error and by percentile, from histograms of activations or from whole weights.

A bin holds values with the same sign, exponent and first mantissa bits; an octave has `bins_per_octave` bins. Bins do
not depend on a range, so a histogram depends neither on the order of the data nor on its division into batches, and
early outliers do not coarsen it.
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

_CHUNK = 1 << 16  # elements quantized at once, which fit in the cache


class HistogramCalculatorBase(StatefulQParamsCalculatorBase):
    """Base of calculators with a histogram.

    Additional buffers: `keys` (int64, ascending: the block of a bin, then the leading bits of its values) and `counts`
    (int64).
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
        """Update the range and count the values."""
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
        """Return lower ends, upper ends and counts of the nonempty bins of a block, in ascending order (float64)."""
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

    def percentile_range(self, percentile: float) -> tuple[Tensor, Tensor]:
        """Return the ends of the range of each block that `PercentileQParamsCalculator` describes, float32."""
        ends = [self._percentile_ends(percentile, block) for block in range(self.running_min.numel())]
        low, high = (torch.tensor(end).float().reshape(self.running_min.shape) for end in zip(*ends, strict=True))
        return torch.maximum(low, self.running_min), torch.minimum(high, self.running_max)

    def _percentile_ends(self, percentile: float, block: int) -> tuple[float, float]:
        lower, upper, counts = self.histogram(block)
        if self.spec.qscheme is QuantizationScheme.ASYMMETRIC:
            above = _quantile(lower, upper, counts, percentile / 100)
            below = _quantile(lower, upper, counts, 1 - percentile / 100)
            return below, above
        near, far = np.minimum(abs(lower), abs(upper)), np.maximum(abs(lower), abs(upper))
        order = np.argsort(near, kind="stable")
        magnitude = _quantile(near[order], far[order], counts[order], percentile / 100)
        return -magnitude, magnitude


@QParamsCalculatorBase.register("histogram")
class HistogramQParamsCalculator(HistogramCalculatorBase):
    """The range of least squared error over all observed values, assumed uniform within their bins.

    For weights ``"histogram"`` means ``"mse"``, which uses their exact values.
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
        """Return the expected squared error of the values in the bins, for each candidate."""
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
        first = np.zeros_like(scale)  # the least integer that a code represents
        if minval is None:
            first = first + low - (0 if zero_point is None else zero_point)
        start, end = (lower - origin) / scale, (upper - origin) / scale
        return (counts * _mean_error(start, end, first, first + high - low) * scale**2).sum(1)


def _mean_error(start: np.ndarray, end: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the mean squared error of rounding ``[start, end]`` to the integers from `first` to `last`."""

    def integral(values: np.ndarray) -> np.ndarray:
        inside = np.clip(values, first, last)
        nearest = np.round(inside)
        lost, clipped = inside - nearest, values - inside
        return nearest / 12 + (lost * lost * lost + clipped * clipped * clipped) / 3  # `**` is ten times slower

    width, middle = end - start, (start + end) / 2
    at_middle = np.square(middle - np.round(np.clip(middle, first, last)))
    is_point = width < 1e-3  # a difference of integrals would cancel
    return np.where(is_point, at_middle, (integral(end) - integral(start)) / np.where(is_point, 1.0, width))


@QParamsCalculatorBase.register("percentile")
class PercentileQParamsCalculator(HistogramCalculatorBase):
    """The percentile range of all observed values, assumed uniform within their bins.

    With a symmetric scheme, `percentile` percent of the magnitudes are in the range. With an asymmetric scheme,
    `percentile` percent of the values are above its lower end, and as many below its upper end.

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
        """Return the calculator for exact values for a weight, else itself."""
        if not is_state:
            return self
        return WeightPercentileQParamsCalculator(self.spec, self.block_size, percentile=self.percentile)

    def _from_running_range(self) -> QParams | None:
        if super()._from_running_range() is None or None not in self.spec.float_range:
            return super()._from_running_range()
        return self.from_range(*self.percentile_range(self.percentile))


def _quantile(lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, fraction: float) -> float:
    total = counts.cumsum()
    wanted = fraction * total[-1]
    at = min(int(np.searchsorted(total, wanted)), len(total) - 1)
    part = (wanted - (total[at] - counts[at])) / counts[at]
    return float(lower[at] + part * (upper[at] - lower[at]))


class WeightPercentileQParamsCalculator(StatelessQParamsCalculatorBase):
    """The percentile range of each block of a weight."""

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = (), *, percentile: float = 99.99) -> None:
        super().__init__(spec, block_size)
        self.percentile = percentile

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Return the parameters for the percentiles of the blocks of `data`."""
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
    """The range of least squared error of each quantized block.

    Errors are computed by the quantization formulas and summed in float64 in a fixed order, so the result is
    deterministic. For activations ``"mse"`` means ``"histogram"``.

    Args:
        candidates: number of ranges in the first, coarse search; finer searches around the best follow.
    """

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = (), *, candidates: int = 32) -> None:
        super().__init__(spec, block_size)
        self.candidates = candidates
        self._known = Remembered[QParams]()

    def suited(self, *, is_state: bool) -> QParamsCalculatorBase:
        """See the class."""
        return self if is_state else HistogramQParamsCalculator(self.spec, self.block_size)

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Return the parameters of least error for `data`."""
        return None if data is None else self._known.get((data,), lambda: self.from_range(*self.search(data)))

    def search(self, data: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ends of the range of least error of each block of `data`, float32."""
        low, high = self.range_calculator(data, self.block_size)
        if None not in self.spec.float_range or not data.numel():
            return low, high
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
        return found[0].reshape(shape), found[1].reshape(shape)

    def _error(self, blocks: Tensor, low: Tensor, high: Tensor) -> np.ndarray:
        """Return the squared error of each row of `blocks` for its own range."""
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

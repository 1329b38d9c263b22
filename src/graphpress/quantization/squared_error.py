"""The calculator of least squared error, for tensors that are known as a whole: weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from graphpress.ir import reference
from graphpress.passes.quantization.qparams import QParams
from graphpress.passes.specs import QuantizationScheme, QuantizationSpec
from graphpress.quantization.calculators import QParamsCalculatorBase, StatelessQParamsCalculatorBase
from graphpress.quantization.range_search import least_error_range
from graphpress.quantization.remembering import Remembered

_CHUNK = 1 << 16  # elements that are quantized at once: they stay in the cache


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
        from graphpress.quantization.histograms import HistogramQParamsCalculator

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


def in_blocks(data: Tensor, block_size: Sequence[int]) -> Tensor:
    """`data` with a row for each block: ``[blocks, elements of a block]``, blocks in the order of their scales."""
    if not block_size:
        return data.reshape(1, -1)
    split: list[int] = []
    for extent, size in zip(data.shape, block_size, strict=True):
        size = extent if size == -1 else size
        split += [extent // size, size]
    outer, inner = range(0, len(split), 2), range(1, len(split), 2)
    elements = int(np.prod([split[axis] for axis in inner]))
    return data.reshape(split).permute(*outer, *inner).reshape(-1, elements)


def fake_quantized(data: Tensor, qparams: Sequence[Tensor | None], spec: QuantizationSpec) -> Tensor:
    """`data`, quantized and dequantized as `spec` says."""
    scale, zero_point, minval = qparams
    assert scale is not None
    bounds: dict[str, Any] = (
        {} if spec.element_type.is_floating else {"quant_min": int(spec.quant_min), "quant_max": int(spec.quant_max)}
    )
    return reference.fake_quantize(data, scale, zero_point, minval, dtype=spec.element_type, **bounds)


def widest_ratio(spec: QuantizationSpec) -> float:
    """How far beyond the data a range may help: symmetric signed codes reach less far above zero than below."""
    if spec.element_type.is_floating or spec.qscheme is QuantizationScheme.ASYMMETRIC:
        return 2.0 if spec.scale_dtype is not None and spec.element_type.is_floating else 1.0
    reach = (int(spec.quant_max) - int(spec.quant_min)) // 2
    return (int(spec.quant_max) - int(spec.quant_min)) / 2 / max(reach, 1)

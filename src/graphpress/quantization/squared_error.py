"""Search for the quantization range of least squared error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphpress.ir import reference
from graphpress.passes.config import QuantizationScheme, QuantizationSpec

# Error of candidate ranges (low, high), both float32 [candidates, *blocks]; returns float64 of that shape.
Error = Callable[[Tensor, Tensor], np.ndarray]

_LEAST = 2.0**-10
_FINE = 9


def least_error_range(
    low: Tensor, high: Tensor, error: Error, *, independent: bool, candidates: int = 32, widest: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Find the range of least error for every block.

    Args:
        low, high: float32 range of the data, one entry per block.
        error: computes the errors of candidate ranges; blocks are independent.
        independent: whether the two ends may shrink by different ratios.
        candidates: number of points of the coarse grid, from the range of the data down to 1/1024 of it.
        widest: the greatest ratio tried; more than 1 helps if the codes do not reach the end of the range.

    Returns:
        `low` and `high`, each scaled by a ratio per block.
    """
    best = _Best(low, high, error)
    upper = np.linspace(1.0, 0.5, candidates // 2, endpoint=False)
    lower = np.geomspace(0.5, _LEAST, candidates - candidates // 2)
    wider = [ratio for ratio in np.linspace(1.0, widest, 4)[1:] if ratio > 1.0]
    best.try_ratios(torch.tensor([*upper, *lower, *wider], dtype=torch.float32), "both")
    spread = 2 ** (2 / candidates)
    for _ in range(2):
        best.try_ratios(_around(spread), "both")
        spread **= 2 / (_FINE - 1)
    if independent:
        spread = 2.0
        for _ in range(3):
            best.try_ratios(_around(spread), "low")
            best.try_ratios(_around(spread), "high")
            spread **= 0.5
    return best.low, best.high


class _Best:
    """The best range found so far, per block."""

    def __init__(self, low: Tensor, high: Tensor, error: Error):
        self.low, self.high = low, high
        self._error = error
        self._least = torch.full(low.shape, torch.inf, dtype=torch.float64)

    def try_ratios(self, ratios: Tensor, end: str) -> None:
        """Try the best ranges with an end scaled by each of `ratios`; ties keep the first."""
        shaped = ratios.reshape(-1, *[1] * self.low.ndim)
        lows = self.low * (shaped if end != "high" else torch.ones_like(shaped))
        highs = self.high * (shaped if end != "low" else torch.ones_like(shaped))
        errors = torch.from_numpy(np.asarray(self._error(lows, highs), dtype=np.float64))
        least, place = errors.min(0)
        better = least < self._least
        pick = place.unsqueeze(0)
        self.low = torch.where(better, lows.gather(0, pick)[0], self.low)
        self.high = torch.where(better, highs.gather(0, pick)[0], self.high)
        self._least = torch.where(better, least, self._least)


def _around(spread: float) -> Tensor:
    return torch.tensor(np.geomspace(1 / spread, spread, _FINE), dtype=torch.float32)


def in_blocks(data: Tensor, block_size: Sequence[int]) -> Tensor:
    """Arrange `data` as ``[blocks, elements per block]``, with blocks in the order of their scales."""
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
    """Quantize and dequantize `data` by `spec`."""
    scale, zero_point, minval = qparams
    assert scale is not None
    bounds: dict[str, Any] = (
        {} if spec.element_type.is_floating else {"quant_min": int(spec.quant_min), "quant_max": int(spec.quant_max)}
    )
    return reference.fake_quantize(data, scale, zero_point, minval, dtype=spec.element_type, **bounds)


def widest_ratio(spec: QuantizationSpec) -> float:
    """Return the widest useful ratio of a range to the data's; symmetric signed codes have fewer positive steps."""
    if spec.element_type.is_floating or spec.qscheme is QuantizationScheme.ASYMMETRIC:
        return 2.0 if spec.scale_dtype is not None and spec.element_type.is_floating else 1.0
    reach = (int(spec.quant_max) - int(spec.quant_min)) // 2
    return (int(spec.quant_max) - int(spec.quant_min)) / 2 / max(reach, 1)

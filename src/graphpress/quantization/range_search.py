"""Search for the range, and so the scale, at which quantization loses least.

The error as a function of the range has many local minima, one for every value that changes its code. So a coarse
grid over more than the plausible ratios, denser in the upper octave, is followed by two finer ones around its best,
first for both ends together, then for each end alone where the scheme lets them differ. The range of the data itself is
always among the candidates: the result is never worse than it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Errors of candidate ranges: float32 [candidates, *blocks] each; returns float64 of that shape.
Error = Callable[[Tensor, Tensor], np.ndarray]

_LEAST = 2.0**-10
_FINE = 9


def least_error_range(
    low: Tensor, high: Tensor, error: Error, *, independent: bool, candidates: int = 32, widest: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The range of least error for every block.

    Args:
        low, high: float32 range of the data, one entry per block.
        error: of candidate ranges; each block is independent of the others.
        independent: whether the two ends may shrink by different ratios.
        candidates: points of the coarse grid, from the range of the data down to 1/1024 of it.
        widest: the greatest ratio tried; more than 1 pays where codes do not reach the end of the range.

    Returns:
        `low` and `high`, each times a ratio of its block.
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
    """The best range of every block so far."""

    def __init__(self, low: Tensor, high: Tensor, error: Error):
        self.low, self.high = low, high
        self._error = error
        self._least = torch.full(low.shape, torch.inf, dtype=torch.float64)

    def try_ratios(self, ratios: Tensor, end: str) -> None:
        """Multiply ends of the best ranges by each of `ratios`; of equal errors the first stays."""
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

"""Numeric contracts of passes: the tolerated change of the graph's outputs.

The `Numerics` hook and the test harness run the interpreter before and after a pass and check its effect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from attrs import field, frozen
from attrs.validators import ge, instance_of


@frozen
class Drift:
    """The measured error of one output and the largest error allowed, in the effect's measure.

    `output` is the number of a user output, or the name of a constant or input that is written to.
    """

    output: int | str
    error: float
    allowed: float

    @property
    def is_held(self) -> bool:
        """True if the error is within the allowed error."""
        return self.error <= self.allowed


class Effect(ABC):
    """Base class of numeric contracts."""

    @abstractmethod
    def measure(self, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
        """Return the error of `after` and the largest allowed error; infinite if the tensors are not comparable."""


@frozen
class Exact(Effect):
    """Outputs are bit-identical, of the same type; the measure is the number of differing elements."""

    def measure(self, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
        """Count differing elements; -0.0 differs from 0.0, every NaN equals every NaN."""
        if before.shape != after.shape or before.dtype != after.dtype:
            return float("inf"), 0.0
        same = before == after
        if before.is_floating_point():
            same &= torch.signbit(before) == torch.signbit(after)
            same |= before.isnan() & after.isnan()
        elif before.is_complex():
            same |= before.isnan() & after.isnan()
        return float((~same).sum().item()), 0.0

    def __str__(self) -> str:
        return "EXACT"


_FLOAT32_STEP = torch.finfo(torch.float32).eps


@frozen
class Close(Effect):
    """Outputs are algebraically equal and differ by rounding only.

    The measure is the largest absolute difference. The allowed error is ``atol + rtol * max|before|``: relative to the
    largest element, since sums cancel. The tolerances apply to float32 and are widened to the rounding step of narrower
    outputs.
    """

    rtol: float = field(default=1e-5, converter=float, validator=ge(0))
    atol: float = field(default=1e-6, converter=float, validator=ge(0))

    def measure(self, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
        """Return the largest difference and the allowed one."""
        if before.shape != after.shape or before.dtype != after.dtype:
            return float("inf"), 0.0
        if not before.dtype.is_floating_point:
            return EXACT.measure(before, after)
        widening = max(1.0, torch.finfo(before.dtype).eps / _FLOAT32_STEP)
        difference, finite = _difference(before, after)
        largest = finite.abs().max().item() if finite.numel() else 0.0
        error = difference.abs().max().item() if difference.numel() else 0.0
        return error, widening * (self.atol + self.rtol * largest)

    def __str__(self) -> str:
        return f"CLOSE(rtol={self.rtol!r}, atol={self.atol!r})"


@frozen
class Lossy(Effect):
    """Outputs lose precision on purpose.

    The measure is the root mean square of the difference relative to that of the output before.

    Attributes:
        bound: the largest measure allowed; None if it depends on the data, in which case drift is only recorded.
        against: the reference for which the result is exact, such as ``"the dequantized LUT"``.
    """

    bound: float | None = None
    against: str = field(default="", kw_only=True, validator=instance_of(str))

    def measure(self, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
        """Return the relative root mean square error and the bound."""
        allowed = float("inf") if self.bound is None else float(self.bound)
        if before.shape != after.shape:
            return float("nan"), allowed  # NaN is never within bounds
        difference, finite = _difference(before.to(torch.float64), after.to(torch.float64))
        if not difference.numel():
            return 0.0, allowed
        error = difference.square().mean().sqrt().item()
        signal = finite.square().mean().sqrt().item() if finite.numel() else 0.0
        return (error / signal if signal else error), allowed

    def __str__(self) -> str:
        bound = "" if self.bound is None else repr(self.bound)
        against = f"against={self.against!r}" if self.against else ""
        return f"LOSSY({', '.join(filter(None, [bound, against]))})"


EXACT = Exact()
CLOSE = Close
LOSSY = Lossy


def _difference(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the difference in float64, infinite if only one side is finite, and the finite elements of `before`."""
    before, after = before.to(torch.float64), after.to(torch.float64)
    agree = (before == after) | (before.isnan() & after.isnan())
    difference = torch.where(agree, torch.zeros_like(before), after - before)
    return torch.nan_to_num(difference, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf), before[before.isfinite()]

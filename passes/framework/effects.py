"""Numeric contracts of passes: how far the outputs of the graph may move.

The `Numerics` hook and the test harness run the interpreter before and after a pass and hold it to its effect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from attrs import field, frozen
from attrs.validators import ge, instance_of


@frozen
class Drift:
    """How far one output moved: the measured error and the largest one the effect allows, in the effect's measure.

    `output` is the number of a user output, or the name of a constant or input that is written to.
    """

    output: int | str
    error: float
    allowed: float

    @property
    def is_held(self) -> bool:
        """True when the error is within what is allowed."""
        return self.error <= self.allowed


class Effect(ABC):
    """A numeric contract."""

    @abstractmethod
    def measure(self, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
        """The error of `after` and the largest error allowed. Tensors that cannot be compared are infinitely far."""


@frozen
class Exact(Effect):
    """Bit for bit the same outputs, of the same type. The measure is the number of elements that differ."""

    def measure(self, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
        """Count differing elements; -0.0 differs from 0.0, any NaN equals any NaN."""
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
    """Algebraically equal; only rounding differs.

    The measure is the largest absolute difference. Allowed is ``atol + rtol * max|before|``: relative to the largest
    element, since sums cancel. The tolerances are stated for float32 and widen with the rounding step of a narrower
    output.
    """

    rtol: float = field(default=1e-5, converter=float, validator=ge(0))
    atol: float = field(default=1e-6, converter=float, validator=ge(0))

    def measure(self, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
        """The largest difference."""
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
    """Loses precision on purpose.

    The measure is the root mean square of the difference over that of the output before.

    Attributes:
        bound: the largest measure allowed; None where the data alone decides, and drift is only recorded.
        against: what the result *is* exact against, such as ``"the dequantized table"``.
    """

    bound: float | None = None
    against: str = field(default="", kw_only=True, validator=instance_of(str))

    def measure(self, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
        """The relative root mean square error."""
        allowed = float("inf") if self.bound is None else float(self.bound)
        if before.shape != after.shape:
            return float("nan"), allowed  # not a number is never within bounds
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
    """The difference in float64, infinite where only one side is finite; and the finite elements of `before`."""
    before, after = before.to(torch.float64), after.to(torch.float64)
    agree = (before == after) | (before.isnan() & after.isnan())
    difference = torch.where(agree, torch.zeros_like(before), after - before)
    return torch.nan_to_num(difference, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf), before[before.isfinite()]

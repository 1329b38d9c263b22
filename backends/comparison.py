"""Numerical comparison of a saved model with its source model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


@attrs.frozen
class OutputCheck:
    """The difference of one output of an asset from torch's.

    Attributes:
        name: the output's name in the asset.
        shape: the shape in torch.
        max_error: the largest absolute difference, in units of the torch output's range; infinite if the shapes differ
            or only one side is finite.
        mean_error: the mean absolute difference in the same units.
        differing: the fraction of elements that are not equal.
        max_error_in_runtime_arithmetic: `max_error` against the same model with sums in the runtime's order; None if
            that evaluation was not needed.
    """

    name: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    differing: float
    max_error_in_runtime_arithmetic: float | None = None

    def within(self, tolerance: float) -> bool:
        """Return True if the asset equals torch, in torch's or the runtime's order of additions, up to `tolerance`."""
        again = self.max_error_in_runtime_arithmetic
        return self.max_error <= tolerance or (again is not None and again <= tolerance)


@attrs.frozen
class CheckReport:
    """The comparison of all outputs; `str` of it is a table."""

    path: Path
    tolerance: float
    outputs: tuple[OutputCheck, ...]
    problem: str = ""

    @property
    def ok(self) -> bool:
        """True if every output is within the tolerance."""
        return not self.problem and all(output.within(self.tolerance) for output in self.outputs)

    @property
    def max_error(self) -> float:
        """The largest error of any output against torch, in units of that output's range."""
        return max((output.max_error for output in self.outputs), default=math.inf if self.problem else 0.0)

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "MISMATCH"
        lines = [f"{self.path}: {verdict} (tolerance {self.tolerance:g} of an output's range)"]
        if self.problem:
            lines.append(f"  {self.problem}")
        for output in self.outputs:
            mark = " " if output.within(self.tolerance) else "!"
            size = "x".join(map(str, output.shape)) or "scalar"
            lines.append(
                f"{mark} {output.name} [{size}]: max error {output.max_error:.2g}, mean {output.mean_error:.2g}, "
                f"{output.differing:.2%} of values differ"
            )
            again = output.max_error_in_runtime_arithmetic
            if again is not None:
                told = (
                    "values at rounding ties, explained by the order of additions"
                    if again <= self.tolerance
                    else "not explained by the order of additions alone"
                )
                lines.append(f"    in the runtime's arithmetic: max error {again:.2g} ({told})")
        return "\n".join(lines)


def compare_outputs(name: str, stored: torch.Tensor, expected: torch.Tensor) -> OutputCheck:
    """Compare the output `stored` of a saved model with `expected`."""
    shape = tuple(expected.shape)
    if stored.shape != expected.shape:
        return OutputCheck(name, shape, math.inf, math.inf, 1.0)
    if not expected.numel():
        return OutputCheck(name, shape, 0.0, 0.0, 0.0)
    a, b = stored.detach().double(), expected.detach().cpu().double()
    equal = (a == b) | (a.isnan() & b.isnan())
    error = torch.where(equal, 0.0, (a - b).abs()).nan_to_num(nan=math.inf) / _range(b)
    return OutputCheck(name, shape, error.max().item(), error.mean().item(), 1 - equal.double().mean().item())


def tensors_in(output: Any) -> list[torch.Tensor]:
    """Return the tensors in a model's return value, flat."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _range(values: torch.Tensor) -> float:
    """Return max minus min of the finite values, or the magnitude of a constant, or 1 for zero."""
    finite = values[values.isfinite()]
    if not finite.numel():
        return 1.0
    return (finite.max() - finite.min()).item() or finite.abs().max().item() or 1.0


class ExactConvolutions(TorchDispatchMode):
    """Mode in which float convolutions accumulate in float64 and round once, before the bias is added."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.convolution.default or not args[0].is_floating_point():
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            return exact_convolution(*args, **(kwargs or {}))


def exact_convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *settings: Any) -> torch.Tensor:
    """Compute ``aten.convolution`` with sums rounded once to the dtype of `x`."""
    exact: torch.Tensor = torch.ops.aten.convolution(x.double(), weight.double(), None, *settings).to(x.dtype)
    return exact if bias is None else exact + bias.reshape(-1, *[1] * (x.dim() - 2))

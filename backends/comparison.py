"""Numerical comparison of a saved model with its source model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from graphpress.backends.errors import ModelInputError

FLOAT_TOLERANCE = 1e-5
"""The difference, in units of an output's range, that is accepted without asking what rounding explains."""


@attrs.frozen
class Allowance:
    """The deviation of an output that rounding explains; `graphpress.backends.rounding` measures it.

    Attributes:
        max_error: of the worst element, in units of the output's range (max - min).
        rms_error: the root mean square, in units of that of the output.
    """

    max_error: float
    rms_error: float

    def covers(self, output: OutputCheck) -> bool:
        """Return True if rounding explains the difference of `output`."""
        return output.max_error <= self.max_error and output.rms_error <= self.rms_error


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
        rms_error: the root mean square of the difference, in units of that of the torch output.
        steps: the largest absolute difference, in steps of the dtype at the output's largest magnitude.
        max_error_in_runtime_arithmetic: `max_error` against the same model with sums in the runtime's order; None if
            that evaluation was not needed.
        allowed: what rounding explains; None if that was not needed, or a tolerance was given.
    """

    name: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    differing: float
    rms_error: float = 0.0
    steps: float = 0.0
    max_error_in_runtime_arithmetic: float | None = None
    allowed: Allowance | None = None

    @property
    def decibels(self) -> float:
        """The ratio of the output to the difference: ``-20 log10(rms_error)``, infinite if they are equal."""
        return -20 * math.log10(self.rms_error) if self.rms_error else math.inf

    def within(self, tolerance: float | None) -> bool:
        """Return True if the asset equals torch up to `tolerance`, in torch's or the runtime's order of additions.

        Args:
            tolerance: in units of the output's range; None for `FLOAT_TOLERANCE` or what rounding explains.
        """
        again, limit = self.max_error_in_runtime_arithmetic, FLOAT_TOLERANCE if tolerance is None else tolerance
        if self.max_error <= limit or (again is not None and again <= limit):
            return True
        return tolerance is None and self.allowed is not None and self.allowed.covers(self)


def check_tolerance(tolerance: object) -> None:
    """Check a tolerance that a user gave.

    Raises:
        ModelInputError: unless it is None, or a number from 0.
    """
    is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if tolerance is not None and not (is_number and tolerance >= 0):  # type: ignore[operator]
        raise ModelInputError(f"tolerance is {tolerance!r}; accepted: None, or a number from 0")


@attrs.frozen
class OperatorCheck:
    """The difference of one operator's output in the file from torch's.

    Attributes:
        operator: the ATen operator.
        name: its name in the exported program.
        place: its module path and the user's source line.
        output: the difference of its output from torch's on the file's inputs, with what rounding explains.
        inputs: the difference of each of its inputs in the file from the model's, by the name of their operator.
    """

    operator: str
    name: str
    place: str
    output: OutputCheck
    inputs: tuple[OutputCheck, ...]

    @property
    def ok(self) -> bool:
        """True if rounding explains the difference."""
        return self.output.within(None)

    def __str__(self) -> str:
        lines = [f"{self.operator} ({self.name}) {self.place}", f"  its output: {_units(self.output)}"]
        if self.output.allowed is not None:
            lines[-1] += f"; rounding explains {self.output.allowed.max_error:.2g} of the range"
        return "\n".join([*lines, *(f"  its input {each.name}: {_units(each)}" for each in self.inputs)])


@attrs.frozen
class BlameReport:
    """The operators that were compared, in order; `str` of it tells the first that differs.

    Attributes:
        path: the saved model.
        operators: one entry for each operator whose value the file has.
        returned: the names of the operators whose values the model returns; "" for a value that no operator computes.
    """

    path: Path
    operators: tuple[OperatorCheck, ...]
    returned: tuple[str, ...] = ()

    @property
    def first(self) -> OperatorCheck | None:
        """The first operator whose output differs by more than rounding explains; None if there is none."""
        return next((each for each in self.operators if not each.ok), None)

    def explains(self, outputs: Iterable[int]) -> bool:
        """Return True if rounding explains the outputs with these indices, since it explains every operator."""
        compared = {each.name for each in self.operators}
        return self.first is None and all(self.returned[at] in compared for at in outputs)

    def data(self) -> dict[str, Any]:
        """Return the first operator that differs as plain data, with errors in units of the value's range."""
        first = self.first
        if first is None:
            return {"compared": len(self.operators), "first": None}
        what = {"operator": first.operator, "name": first.name, "place": first.place}
        errors = {"max_error": first.output.max_error, "rms_error": first.output.rms_error, "steps": first.output.steps}
        inputs = {each.name: each.max_error for each in first.inputs}
        return {"compared": len(self.operators), "first": what | errors | {"inputs": inputs}}

    def __str__(self) -> str:
        first = self.first
        compared = f"{len(self.operators)} operators compared"
        if first is None:
            return f"{self.path}: no operator differs by more than rounding explains ({compared})"
        return f"{self.path}: the first operator that differs ({compared}):\n{first}"


def _units(check: OutputCheck) -> str:
    return (
        f"max error {check.max_error:.2g} of the range, {check.decibels:.1f} dB, {check.steps:.3g} steps of the dtype"
    )


@attrs.frozen
class CheckReport:
    """The comparison of all outputs; `str` of it is a table.

    Attributes:
        path: the saved model.
        tolerance: the largest accepted difference, in units of an output's range; None for what rounding explains.
        outputs: the outputs in order.
        problem: why the outputs cannot be compared, if so.
        layers: the comparison of every operator on the file's own values; None if that was not needed, or a tolerance
            was given.
    """

    path: Path
    tolerance: float | None
    outputs: tuple[OutputCheck, ...]
    problem: str = ""
    layers: BlameReport | None = None

    @property
    def ok(self) -> bool:
        """True if every output is within the tolerance, or rounding explains each operator."""
        differing = [at for at, output in enumerate(self.outputs) if not output.within(self.tolerance)]
        explained = self.layers is not None and self.layers.explains(differing)
        return not self.problem and (not differing or explained)

    @property
    def max_error(self) -> float:
        """The largest error of any output against torch, in units of that output's range."""
        return max((output.max_error for output in self.outputs), default=math.inf if self.problem else 0.0)

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "MISMATCH"
        limit = f"{FLOAT_TOLERANCE:g} of an output's range, or what rounding explains"
        if self.tolerance is not None:
            limit = f"{self.tolerance:g} of an output's range"
        lines = [f"{self.path}: {verdict} (tolerance: {limit})"]
        if self.problem:
            lines.append(f"  {self.problem}")
        for output in self.outputs:
            lines += self._described(output)
        if self.layers is not None:
            lines.append(self._layers(self.layers))
        return "\n".join(lines)

    def _layers(self, layers: BlameReport) -> str:
        told = f"  on the file's own values, rounding explains {{}} of {len(layers.operators)} operators"
        if layers.first is not None:
            return f"{told.format('not all')}; the first that differs:\n{layers.first}"
        return f"{told.format('each')}: " + (
            "sums in another order or dtype, or values at rounding ties"
            if self.ok
            else "but an output is none of these"
        )

    def _described(self, output: OutputCheck) -> list[str]:
        mark = " " if output.within(self.tolerance) else "!"
        size = "x".join(map(str, output.shape)) or "scalar"
        lines = [
            f"{mark} {output.name} [{size}]: max error {output.max_error:.2g} of the range "
            f"({output.steps:.3g} steps of the dtype), mean {output.mean_error:.2g}, {output.decibels:.1f} dB, "
            f"{output.differing:.2%} of values differ"
        ]
        again, limit = output.max_error_in_runtime_arithmetic, self.tolerance
        if again is not None:
            told = (
                "values at rounding ties, explained by the order of additions"
                if again <= (FLOAT_TOLERANCE if limit is None else limit)
                else "not explained by the order of additions alone"
            )
            lines.append(f"    in the runtime's arithmetic: max error {again:.2g} ({told})")
        return lines


def compare_outputs(name: str, stored: torch.Tensor, expected: torch.Tensor) -> OutputCheck:
    """Compare the output `stored` of a saved model with `expected`."""
    shape = tuple(expected.shape)
    if stored.shape != expected.shape:
        return OutputCheck(name, shape, math.inf, math.inf, 1.0, math.inf, math.inf)
    if not expected.numel():
        return OutputCheck(name, shape, 0.0, 0.0, 0.0)
    a, b = stored.detach().double(), expected.detach().cpu().double()
    equal = (a == b) | (a.isnan() & b.isnan())
    error = torch.where(equal, 0.0, (a - b).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    relative, finite = error / _range(b), b[b.isfinite()]
    size = finite.square().mean().sqrt().item() if finite.numel() else 0.0
    return OutputCheck(
        name,
        shape,
        relative.max().item(),
        relative.mean().item(),
        1 - equal.double().mean().item(),
        error.square().mean().sqrt().item() / (size or 1.0),
        error.max().item() / _step(finite, expected.dtype),
    )


def _step(values: torch.Tensor, dtype: torch.dtype) -> float:
    """Return the distance of neighbors in `dtype` at the largest magnitude of `values`; 1 for integers."""
    if not dtype.is_floating_point or not values.numel():
        return 1.0
    largest = values.abs().max().item()
    return torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(largest)) if largest else torch.finfo(dtype).tiny


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

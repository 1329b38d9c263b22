"""Compare what a saved asset computes with the torch model it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphpress.backends import exporting
from graphpress.backends.coreai import ops, program
from graphpress.backends.coreai.arithmetic import RuntimeArithmetic
from graphpress.backends.coreai.runtime import LoadedModel, load


@attrs.frozen
class OutputCheck:
    """How one output of the asset differs from torch's.

    Attributes:
        name: the output's name in the asset.
        shape: torch's shape of it.
        max_error: largest absolute difference, in units of the torch output's range; infinite where the
            shapes differ or only one side is finite.
        mean_error: mean absolute difference in the same units.
        differing: fraction of elements that are not equal.
        max_error_in_runtime_arithmetic: as `max_error`, against the same model with sums taken in the
            runtime's order; None where that evaluation was not needed.
    """

    name: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    differing: float
    max_error_in_runtime_arithmetic: float | None = None

    def within(self, tolerance: float) -> bool:
        """True when the asset equals torch, or torch with the runtime's order of additions, up to `tolerance`."""
        again = self.max_error_in_runtime_arithmetic
        return self.max_error <= tolerance or (again is not None and again <= tolerance)


@attrs.frozen
class CheckReport:
    """The outputs of an asset beside those of the torch model; `str` of it is a table."""

    path: Path
    tolerance: float
    outputs: tuple[OutputCheck, ...]
    problem: str = ""

    @property
    def ok(self) -> bool:
        """True when every output is within the tolerance."""
        return not self.problem and all(output.within(self.tolerance) for output in self.outputs)

    @property
    def max_error(self) -> float:
        """The largest error of any output against torch as it runs, in units of that output's range."""
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
                    "values at rounding ties, which the order of additions decides"
                    if again <= self.tolerance
                    else "not explained by the order of additions alone"
                )
                lines.append(f"    in the runtime's arithmetic: max error {again:.2g} ({told})")
        return "\n".join(lines)


def check(
    path: str | PathLike[str],
    model: torch.nn.Module | ExportedProgram,
    inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any],
    tolerance: float = 1e-5,
) -> CheckReport:
    """Run the asset at `path` and `model` on the same inputs and compare their outputs.

    A model with quantized activations differs from its asset wherever a sum, taken in another order, falls
    on the other side of a rounding tie. So where torch as it runs is not within the tolerance, the model is
    exported and evaluated once more in the runtime's own arithmetic (see `arithmetic`), which has no such
    excuse.

    Args:
        path: a saved asset.
        model: the module, run in eval mode, or the exported program the asset was made from.
        inputs: one tensor, a tuple of the arguments, or a dict by name.
        tolerance: largest accepted absolute difference, in units of the torch output's range (max - min).

    Returns:
        A report; a mismatch, even of shape or number of outputs, never raises.

    Raises:
        AssetError, ModelInputError, ExecutionError: when the asset cannot be loaded or run at all.
    """
    ops.register()
    args, kwargs = exporting.arguments(inputs)
    module = model.module() if isinstance(model, ExportedProgram) else model
    with load(path) as loaded:
        stored = _run(loaded, args, kwargs)
        names = [output.name for output in loaded.signature.outputs]
    with torch.no_grad(), exporting.in_eval_mode(module):
        try:
            expected = _tensors(module(*args, **kwargs))
        except NotImplementedError:  # torch has no kernels for codes of less than 8 bits
            with RuntimeArithmetic():
                expected = _tensors(module(*args, **kwargs))
    if len(expected) != len(stored):
        return CheckReport(Path(path), tolerance, (), f"{len(stored)} outputs, but torch gives {len(expected)}")
    outputs = [_compared(*each) for each in zip(names, stored, expected, strict=True)]
    if any(output.max_error > tolerance and math.isfinite(output.max_error) for output in outputs):
        again = _in_runtime_arithmetic(model, args, kwargs)
        outputs = [
            attrs.evolve(output, max_error_in_runtime_arithmetic=_compared(output.name, value, ours).max_error)
            for output, value, ours in zip(outputs, stored, again, strict=True)
        ]
    return CheckReport(Path(path), tolerance, tuple(outputs))


def _run(loaded: LoadedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    names = {each.name for each in loaded.signature.inputs}
    if set(kwargs) - names:  # nested arguments are flattened by the export
        args, kwargs = (*args, *kwargs.values()), {}
    leaves = [leaf for leaf in pytree.tree_leaves(args) if leaf is not None]
    result = loaded(*leaves, **kwargs)
    return list(result) if isinstance(result, tuple) else [result]


def _in_runtime_arithmetic(
    model: torch.nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    """The outputs of the graph that is converted, computed as the runtime computes."""
    exported = model if isinstance(model, ExportedProgram) else exporting.export(model, kwargs if kwargs else args)
    graph = program.decompose(exported).module()
    with torch.no_grad(), RuntimeArithmetic():
        return _tensors(graph(*args, **kwargs))


def _tensors(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _compared(name: str, stored: torch.Tensor, expected: torch.Tensor) -> OutputCheck:
    shape = tuple(expected.shape)
    if stored.shape != expected.shape:
        return OutputCheck(name, shape, math.inf, math.inf, 1.0)
    if not expected.numel():
        return OutputCheck(name, shape, 0.0, 0.0, 0.0)
    a, b = stored.detach().double(), expected.detach().cpu().double()
    equal = (a == b) | (a.isnan() & b.isnan())
    error = torch.where(equal, 0.0, (a - b).abs()).nan_to_num(nan=math.inf) / _range(b)
    return OutputCheck(name, shape, error.max().item(), error.mean().item(), 1 - equal.double().mean().item())


def _range(values: torch.Tensor) -> float:
    """Max minus min of the finite values; for a constant its magnitude, and 1 for zero."""
    finite = values[values.isfinite()]
    if not finite.numel():
        return 1.0
    return (finite.max() - finite.min()).item() or finite.abs().max().item() or 1.0

"""Numerical comparison of a saved asset with its torch model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
import torch
from torch.export import ExportedProgram

from graphpress.backends import exporting
from graphpress.backends.comparison import CheckReport, check_tolerance, compare_outputs, tensors_in
from graphpress.backends.coreai import ops
from graphpress.backends.coreai.arithmetic import RuntimeArithmetic
from graphpress.backends.coreai.blame import blame
from graphpress.backends.coreai.pt2e import with_stored_codes
from graphpress.backends.coreai.runtime import load, run_flat


def check(
    path: str | PathLike[str],
    model: torch.nn.Module | ExportedProgram,
    inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any],
    tolerance: float | None = None,
) -> CheckReport:
    """Run the asset at `path` and `model` on the same inputs, and compare their outputs.

    Models with quantized activations differ from their assets where sums in another order round to another code. If
    torch is not within the tolerance, the model is therefore exported and evaluated in the runtime's arithmetic (see
    `arithmetic`), in which such differences do not occur. If these differ too, every operator is compared on the values
    that it reads in the asset (see `blame` and `graphpress.backends.rounding`), unless a tolerance is given.

    Args:
        path: a saved asset.
        model: the module, run in eval mode, or the exported program of the asset.
        inputs: one tensor, a tuple of the arguments, or a dict by name.
        tolerance: the largest accepted absolute difference, in units of the torch output's range (max - min); None for
            1e-5, or what rounding explains in the dtypes of the model.

    Returns:
        A report; a mismatch, even of shape or number of outputs, does not raise.

    Raises:
        AssetError, ModelInputError, ExecutionError: if the asset cannot be loaded or run.
    """
    ops.register()
    check_tolerance(tolerance)
    args, kwargs = exporting.arguments(inputs, model)
    with load(path) as loaded:
        stored = run_flat(loaded, args, kwargs)
        names = [output.name for output in loaded.signature.outputs]
    try:
        expected = exporting.outputs_of(model, args, kwargs)
    except NotImplementedError:  # torch has no kernels for codes of less than 8 bits
        with RuntimeArithmetic():
            expected = exporting.outputs_of(model, args, kwargs)
    if len(expected) != len(stored):
        return CheckReport(Path(path), tolerance, (), f"{len(stored)} outputs, but torch gives {len(expected)}")
    outputs = [compare_outputs(*each) for each in zip(names, stored, expected, strict=True)]
    if any(not output.within(tolerance) and math.isfinite(output.max_error) for output in outputs):
        model = exporting.program_of(model, inputs)
        again = _in_runtime_arithmetic(model, args, kwargs)
        outputs = [
            attrs.evolve(output, max_error_in_runtime_arithmetic=compare_outputs(output.name, value, ours).max_error)
            for output, value, ours in zip(outputs, stored, again, strict=True)
        ]
    report = CheckReport(Path(path), tolerance, tuple(outputs))
    return report if report.ok or tolerance is not None else attrs.evolve(report, layers=blame(path, model, inputs))


def _in_runtime_arithmetic(
    program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    """Return the outputs of the converted graph, computed in the runtime's arithmetic."""
    graph = with_stored_codes(program).module()
    with torch.no_grad(), RuntimeArithmetic():
        return tensors_in(graph(*args, **kwargs))

"""Numerical comparison of a saved package with its torch model.

Core ML runs on Apple's systems only. The program is therefore imported from the file, with its weights, and evaluated
by the IR's interpreter, with exactly summed convolutions as in a finalized model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from torch.export import ExportedProgram

from graphpress.backends import exporting
from graphpress.backends.comparison import CheckReport, ExactConvolutions, check_tolerance, compare_outputs, tensors_in
from graphpress.backends.coreai.pt2e import with_stored_codes
from graphpress.backends.coreml.blame import blame
from graphpress.backends.coreml.evaluation import evaluate


def check(
    path: str | PathLike[str],
    model: torch.nn.Module | ExportedProgram,
    inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any],
    tolerance: float | None = None,
) -> CheckReport:
    """Evaluate the package at `path` and `model` on the same inputs, and compare their outputs.

    If torch is not within the tolerance, the model is exported and evaluated with exactly summed convolutions, as the
    package is, since sums in another order may round to another code. If these differ too, every operator is compared
    on the values that it reads in the package (see `blame` and `graphpress.backends.rounding`), unless a tolerance is
    given.

    Args:
        path: a saved package.
        model: the module, run in eval mode, or the exported program of the package.
        inputs: one tensor, a tuple of the arguments, or a dict by name.
        tolerance: the largest accepted absolute difference, in units of the torch output's range (max - min); None for
            1e-5, or what rounding explains in the dtypes of the model (see `graphpress.backends.rounding`).

    Raises:
        AssetError: if there is no package, or it is damaged.
        ModelInputError: if the model does not run on the inputs.
        InterpreterError: if it has an op that the IR cannot translate.
    """
    check_tolerance(tolerance)
    args, kwargs = exporting.arguments(inputs, model)
    expected = exporting.outputs_of(model, args, kwargs)
    graph, stored = evaluate(path, tensors_in((args, kwargs)))
    if len(expected) != len(stored):
        return CheckReport(Path(path), tolerance, (), f"{len(stored)} outputs, but torch gives {len(expected)}")
    names = [output.value.name if output.value is not None else "" for output in graph.outputs[: len(stored)]]
    outputs = [compare_outputs(*each) for each in zip(names, stored, expected, strict=True)]
    if not all(output.within(tolerance) for output in outputs):
        model = exporting.program_of(model, inputs)
        again = _summed_exactly(model, args, kwargs)
        outputs = [
            evolve(output, max_error_in_runtime_arithmetic=compare_outputs(output.name, value, ours).max_error)
            for output, value, ours in zip(outputs, stored, again, strict=True)
        ]
    report = CheckReport(Path(path), tolerance, tuple(outputs))
    return report if report.ok or tolerance is not None else evolve(report, layers=blame(path, model, inputs))


def _summed_exactly(program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the outputs of the converted graph, with exactly summed convolutions."""
    with ExactConvolutions(), torch.no_grad():
        return tensors_in(with_stored_codes(program).module()(*args, **kwargs))

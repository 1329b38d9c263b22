"""Functions of complex numbers in saved files: many in one model, each compared with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphpress.backends import coreai, coreml

BACKENDS = {"coreai": coreai, "coreml": coreml}
_SUFFIXES = {"coreai": "aimodel", "coreml": "mlpackage"}

Functions = Mapping[str, Callable[..., torch.Tensor]]


class Each(nn.Module):
    """Returns the result of every function, a complex one as real numbers."""

    def __init__(self, functions: Functions, complex_inputs: int = 0) -> None:
        super().__init__()
        self.functions, self.complex_inputs = functions, complex_inputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the functions; the first inputs hold the parts of complex tensors along the last axis."""
        given = [torch.view_as_complex(each) for each in inputs[: self.complex_inputs]]
        results = [function(*given, *inputs[self.complex_inputs :]) for function in self.functions.values()]
        return tuple(torch.view_as_real(each.resolve_conj()) if each.is_complex() else each for each in results)


def path_for(folder: Path, backend: str) -> Path:
    """Return a path for a file of a backend."""
    return folder / f"model.{_SUFFIXES[backend]}"


def outputs(backend: str, path: Path, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Run an asset in the runtime, or evaluate a package."""
    if backend == "coreml":
        return [torch.as_tensor(each) for each in coreml.evaluate(path, inputs)[1]]
    with coreai.load(path) as loaded:
        result = loaded(*inputs)
    return list(result) if isinstance(result, tuple) else [result]


def differing(
    backend: str,
    folder: Path,
    functions: Functions,
    inputs: tuple[torch.Tensor, ...],
    complex_inputs: int = 0,
    tolerance: float = 1e-5,
) -> dict[str, Any]:
    """Save a model of all functions, and return those whose results differ from torch's by more than a tolerance.

    Args:
        backend: the name of the backend.
        folder: an empty folder.
        functions: the functions by name.
        inputs: what they are called with.
        complex_inputs: how many of the first inputs hold complex numbers.
        tolerance: accepted, in units of the largest number of each result, or of one if that is larger.
    """
    model = Each(functions, complex_inputs).eval()
    path = path_for(folder, backend)
    BACKENDS[backend].convert(model, path, inputs)
    found, wanted = outputs(backend, path, inputs), model(*inputs)
    assert len(found) == len(wanted) == len(functions)
    errors = {}
    for name, saved, made in zip(functions, found, wanted, strict=True):
        if saved.shape != made.shape:
            errors[name] = f"shape {tuple(saved.shape)}, not {tuple(made.shape)}"
        elif (error := float((saved.double() - made.double()).abs().max() / made.abs().max().clamp(min=1))) > tolerance:
            errors[name] = error
    return errors

"""Trace modules for conversion, and say where in them a node comes from."""

from __future__ import annotations

import copyreg
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends.errors import ConversionError


def export(
    model: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any] | None,
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """Trace `model` in eval mode with `torch.export`; its training mode is restored afterwards.

    Args:
        model: any exportable module.
        example_inputs: one tensor, the positional arguments, or the arguments by name.
        dynamic_shapes: as `torch.export.export` takes them.

    Raises:
        ConversionError: when inputs are missing or torch cannot trace the model.
    """
    if example_inputs is None:
        raise ConversionError(
            f"converting a {type(model).__name__} needs example_inputs: a tensor, a tuple of the positional "
            "arguments, or a dict of them by name (an ExportedProgram needs none)"
        )
    args, kwargs = arguments(example_inputs)
    try:
        with in_eval_mode(model), torch.no_grad(), quiet():
            return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        raise ConversionError(
            f"torch.export cannot trace {type(model).__name__}: {type(error).__name__}: {head(error)}"
        ) from error


def arguments(inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split what a caller gives as inputs into positional and named arguments."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def place(node: fx.Node) -> str:
    """Where a node comes from: its module path, if any, and the user's source line."""
    path = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    frames = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    module = f"in module {path[-1]!r}" if path and path[-1] else "in the model's own forward"
    return f"{module} ({frames[-1]})" if frames else module


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Run the body with every submodule in eval mode, then restore each one's own mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def quiet() -> Iterator[None]:
    """Silence a deprecation that torch.export raises about itself on every call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=copyreg.__name__)
        yield


def head(error: BaseException, most: int = 600) -> str:
    """The start of an error's text: torch appends pages of hints."""
    text = str(error).strip()
    return text if len(text) <= most else text[:most].rstrip() + " ..."

"""Capture of torch modules in eval mode through torch.export.

The module is not changed: the mode of every submodule is restored, also after an error.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph
from graphpress.ir.torch.locations import NOT_USER_CODE
from graphpress.ir.torch.program_reader import from_exported_program

_ADVICE = re.compile(r"\s*For more information\b.*?(?:https?://\S+|\.(?=\s|$)|$)|\s*Suggested fixes:.*")
_PYTHON_LIBRARY = os.path.dirname(os.__file__) + os.sep

__all__ = ["ExportError", "from_exported_program", "from_module"]


class ExportError(GraphpressError):
    """A module that torch.export cannot capture, or example inputs that do not fit it."""


def from_module(
    module: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Graph:
    """Capture `module` in eval mode with `torch.export.export`, and import the result.

    Args:
        module: any module, including an `fx.GraphModule` of ATen calls; it is not changed.
        args: example positional inputs, a tuple (a single tensor counts as one input).
        kwargs: example keyword inputs.
        dynamic_shapes: as for `torch.export.export`.

    Raises:
        ExportError: if the module cannot be captured; the message names the user's line, the cause is torch's error.
    """
    return from_exported_program(export_module(module, args, kwargs, dynamic_shapes))


def export_module(
    module: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """Run `torch.export.export` in eval mode, with the guarantees and errors of `from_module`."""
    if not isinstance(module, torch.nn.Module):
        raise ExportError(f"expected a torch.nn.Module, got {type(module).__name__}")
    if isinstance(args, torch.Tensor):
        args = (args,)
    if not isinstance(args, list | tuple):
        raise ExportError(f"example inputs: expected a tuple of positional inputs, got {type(args).__name__}")
    with state_restored(module):
        try:
            return torch.export.export(
                module, tuple(args), dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False
            )
        except Exception as error:
            raise ExportError(_explain(module, error)) from error


@contextmanager
def state_restored(module: torch.nn.Module) -> Iterator[None]:
    """Switch to eval mode, and restore every submodule on exit, including attributes that `forward` sets.

    The mode flag is set directly: `train()` of exported modules raises, and that of user modules may change weights.
    """
    saved = [(submodule, _state(submodule)) for submodule in module.modules()]
    try:
        for submodule, _ in saved:
            submodule.training = False
        yield
    finally:
        for submodule, state in saved:
            _restore(submodule, state)


_State = dict[str, tuple[Any, Any]]


def _state(module: torch.nn.Module) -> _State:
    """Record every attribute, and the content of dictionaries and lists."""
    return {name: (value, _content(value)) for name, value in vars(module).items()}


def _content(value: Any) -> Any:
    return value.copy() if isinstance(value, list | dict) else None


def _restore(module: torch.nn.Module, state: _State) -> None:
    attributes = vars(module)
    for name in [name for name in attributes if name not in state]:
        del attributes[name]
    for name, (value, content) in state.items():
        attributes[name] = value
        if isinstance(value, list):
            value[:] = content
        elif isinstance(value, dict) and not _same_items(value, content):
            value.clear()
            value.update(content)


def _same_items(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    return len(a) == len(b) and all(key in a and a[key] is item for key, item in b.items())


def _explain(module: torch.nn.Module, error: Exception) -> str:
    """Describe an export failure in one line: module, user's line, and torch's message without logging advice."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("For more", "The error above", "from user code"))]
    message = _ADVICE.sub("", " ".join(said[:3])) or type(error).__name__
    frame = _user_frame(error)
    where = f" at {frame.filename}:{frame.lineno}: `{frame.line}`" if frame is not None else ""
    return f"cannot export {type(module).__qualname__}{where}: {message}"


def _user_frame(error: BaseException | None) -> traceback.FrameSummary | None:
    """Return the innermost frame of the user's code in the error or its causes."""
    while error is not None:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if not frame.filename.startswith((*NOT_USER_CODE, _PYTHON_LIBRARY)) and frame.filename != __file__:
                return frame
        error = error.__cause__ or error.__context__
    return None

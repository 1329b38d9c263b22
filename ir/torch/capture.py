"""Capture of torch modules in eval mode through torch.export.

The module is not changed: the mode of every submodule is restored, also after an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.nn.modules import transformer

from graphpress.ir.graph import Graph
from graphpress.ir.torch.cached_results import fake_results_dropped
from graphpress.ir.torch.export_errors import ExportError, export_error
from graphpress.ir.torch.program_reader import from_exported_program

__all__ = ["ExportError", "from_exported_program", "from_module"]


def from_module(
    module: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    strict: bool = False,
) -> Graph:
    """Capture `module` in eval mode with `torch.export.export`, and import the result.

    Args:
        module: any module, including an `fx.GraphModule` of ATen calls; it is not changed.
        args: example positional inputs, a tuple (a single tensor counts as one input).
        kwargs: example keyword inputs.
        dynamic_shapes: as for `torch.export.export`.
        strict: capture by TorchDynamo, which interprets the byte code of the model, instead of a run of it.

    Raises:
        ExportError: if the module cannot be captured; the message names the user's line, the cause is torch's error.
    """
    return from_exported_program(export_module(module, args, kwargs, dynamic_shapes, strict=strict))


def export_module(
    module: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    strict: bool = False,
) -> ExportedProgram:
    """Run `torch.export.export` in eval mode, with the guarantees and errors of `from_module`."""
    if not isinstance(module, torch.nn.Module):
        raise ExportError(f"expected a torch.nn.Module, got {type(module).__name__}")
    if isinstance(args, torch.Tensor):
        args = (args,)
    if not isinstance(args, list | tuple):
        raise ExportError(f"example inputs: expected a tuple of positional inputs, got {type(args).__name__}")
    named = dict(kwargs or {})
    with state_restored(module):
        try:
            return torch.export.export(module, tuple(args), named, dynamic_shapes=dynamic_shapes, strict=strict)
        except Exception as error:
            raise export_error(module, args, named, dynamic_shapes, error) from error


@contextmanager
def state_restored(module: torch.nn.Module) -> Iterator[None]:
    """Switch to eval mode, and restore every submodule on exit, including attributes that `forward` sets.

    Caches of functions are cleared if the run leaves fake tensors in them.

    The mode flag is set directly: `train()` of exported modules raises, and that of user modules may change weights.
    """
    saved = [(submodule, _state(submodule)) for submodule in module.modules()]
    try:
        for submodule, _ in saved:
            submodule.training = False
        with fake_results_dropped(module), masks_unread():
            yield
    finally:
        for submodule, state in saved:
            _restore(submodule, state)


@contextmanager
def masks_unread() -> Iterator[None]:
    """Keep `nn.Transformer` from comparing its masks with a causal one, which fails without data.

    The comparison sets a hint only: without it, attention applies the mask that it is given.
    """
    compared = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = compared


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

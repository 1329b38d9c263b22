"""Models by import path: ``package.module:name``."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from attrs import frozen

from graphpress.ir.errors import suggestion
from graphpress.tools.passctl.console import ModelArgumentError


@frozen
class ImportedModel:
    """The object at an import path: a module or exported program, with its example inputs if known."""

    model: Any
    inputs: Any = None


def import_model(text: str) -> ImportedModel:
    """Import, and if it is callable call, the object that `text` names; the current directory is importable.

    A callable may return the model, or a pair of the model and a tuple of its example inputs. If the module has a table
    `MODELS` with an entry of that name, the inputs are taken from there.

    Raises:
        ModelArgumentError: if the module or name is missing (with similar names), or the call fails.
    """
    module_name, _, path = text.partition(":")
    if not module_name or not path:
        raise ModelArgumentError(
            f"{text!r} is not an import path: it takes a module and a name, as in 'models.edsr:build'"
        )
    module = _imported(module_name, text)
    found: Any = module
    for name in path.split("."):
        found = _attribute(found, name, text)
    entry = _registered(module, path)
    return _built(found, text, None if entry is None else entry.example_inputs)


def _built(found: Any, text: str, example_inputs: Any) -> ImportedModel:
    import torch

    returned = found
    if isinstance(found, type) or not isinstance(found, torch.nn.Module | torch.export.ExportedProgram | tuple):
        if not callable(found):
            raise ModelArgumentError(
                f"{text} is a {type(found).__name__}; accepted: a torch.nn.Module, or a callable that returns one"
            )
        _check_callable(found, text)
        returned = _called(found, text)
    model, inputs = returned, None
    if isinstance(returned, tuple):
        if len(returned) != 2:
            raise ModelArgumentError(f"{text} returns a tuple of {len(returned)}; accepted: (module, example_inputs)")
        model, inputs = returned
    if not isinstance(model, torch.nn.Module | torch.export.ExportedProgram):
        raise ModelArgumentError(
            f"{text} returns a {type(model).__name__}; accepted: a torch.nn.Module, or a pair of it and a tuple of "
            "example inputs"
        )
    if inputs is None and example_inputs is not None:
        inputs = example_inputs()
    return ImportedModel(model, inputs)


def _check_callable(found: Any, text: str) -> None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    required = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise ModelArgumentError(
            f"{text} takes arguments ({', '.join(required)}); accepted: a callable without, which may call this one"
        )


def _called(found: Any, text: str) -> Any:
    try:
        return found()
    except Exception as error:
        raise ModelArgumentError(f"{text}() failed: {type(error).__name__}: {error}{_place(error)}") from error


def _imported(name: str, text: str) -> ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise ModelArgumentError(f"importing {name!r} needs {missing!r}, which is not installed") from error
        raise ModelArgumentError(f"{text}: no module {missing!r}{_near_modules(missing)}") from error
    except Exception as error:
        raise ModelArgumentError(
            f"importing {name!r} failed: {type(error).__name__}: {error}{_place(error)}"
        ) from error


def _near_modules(missing: str) -> str:
    parent, _, _ = missing.rpartition(".")
    if parent:
        package = sys.modules.get(parent)
        paths = getattr(package, "__path__", None)
        if paths is None:
            return f"; {parent!r} is a module, not a package"
        names = [f"{parent}.{info.name}" for info in pkgutil.iter_modules(paths)]
    else:
        names = [info.name for info in pkgutil.iter_modules()]
    return suggestion(missing, names) or "; searched: the current directory and installed packages"


def _attribute(owner: Any, name: str, text: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        where = owner.__name__ if isinstance(owner, ModuleType | type) else type(owner).__name__
        near = suggestion(name, _public(owner))
        raise ModelArgumentError(f"{text}: {where!r} has no {name!r}{near}") from None


def _public(owner: Any) -> Iterable[str]:
    return [name for name in dir(owner) if not name.startswith("_")]


def _registered(module: ModuleType, name: str) -> Any:
    table = getattr(module, "MODELS", None)
    entry = table.get(name) if isinstance(table, Mapping) else None
    return entry if hasattr(entry, "example_inputs") else None


def _place(error: BaseException) -> str:
    """Return file and line of the innermost frame outside the import machinery."""
    trace, where = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and file != __file__:
            where = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return where

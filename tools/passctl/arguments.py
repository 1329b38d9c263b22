"""Arguments shared by the commands, and their completion."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from graphpress.tools.passctl import console

F = TypeVar("F", bound=Callable[..., Any])


def import_option(function: F) -> F:
    """Add the ``--import`` option, whose modules are imported before any lookup."""
    return click.option(
        "--import",
        "imports",
        multiple=True,
        metavar="MODULE",
        expose_value=False,
        is_eager=True,
        callback=_import_modules,
        help="Import this module first, for the passes and rules it registers; repeatable.",
    )(function)


def _import_modules(ctx: click.Context, parameter: click.Parameter, names: Sequence[str]) -> None:
    """Import `names`, also from the current directory.

    Raises:
        PassctlError: if a module cannot be imported.
    """
    if ctx.resilient_parsing:  # shell completion
        return
    if names and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            from graphpress.tools.passctl.console import PassctlError

            raise PassctlError(f"--import {name}: {type(error).__name__}: {error}") from error


STANDARD_PIPELINES = ("prepare", "finalize", "prune", "palettize", "joint")


def models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a model: example models by name, then files."""
    from graphpress.tools.models.registry import MODELS

    names = [CompletionItem(name) for name in MODELS if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def pipelines(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a pipeline: standard pipelines, and passes after a comma."""
    head, comma, last = incomplete.rpartition(",")
    names = [*pass_names(), *(() if comma else STANDARD_PIPELINES)]
    return [CompletionItem(f"{head}{comma}{name}") for name in sorted(names) if name.startswith(last)]


def passes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a pass name."""
    return [CompletionItem(name) for name in pass_names() if name.startswith(incomplete)]


def pass_names() -> list[str]:
    """Return the names of all registered passes."""
    from graphpress.passes.framework.registry import registered_passes

    return [cls.name for cls in registered_passes()]


def command(name: str, *examples: str) -> Callable[[F], click.Command]:
    """Return a decorator for a click command with ``--json``, ``--traceback`` and `examples` in its help."""
    shown = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)

    def decorate(function: F) -> click.Command:
        options = click.option("--json", "as_json", is_flag=True, help="Structured output on stdout.")(function)
        options = click.option(
            "--traceback",
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_remember_traceback,
            help="Show where an error comes from.",
        )(options)
        made: click.Command = click.command(name, epilog=shown)(options)
        return made

    return decorate


def model_argument(name: str = "model", required: bool = True) -> Callable[[F], F]:
    """Add the model argument."""
    return click.argument(name, metavar=name.upper(), required=required, shell_complete=models)


def input_options(function: F) -> F:
    """Add the options for the example inputs with which the model is captured."""
    function = click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="SHAPE[:DTYPE]",
        help="Shape of an example input, such as 1x3x32x32 or 1x12:int64; repeat for several. Floats are drawn from a "
        "normal distribution, integers are zero.",
    )(function)
    function = click.option(
        "--inputs",
        "inputs_file",
        type=click.Path(path_type=Path),
        help="Example inputs: .npz, .safetensors, or .pt with tensors.",
    )(function)
    return trust_option(function)


_TRUST = "graphpress.trust"


def trust_option(function: F) -> F:
    """Add the ``--trust`` option, with which archives are loaded without the check that loading runs no code."""
    return click.option(
        "--trust",
        is_flag=True,
        expose_value=False,
        callback=_remember_trust,
        help="Load a .pt2 file that may run code when loaded. Only for files that you trust.",
    )(function)


def _remember_trust(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta[_TRUST] = value


def is_trusted() -> bool:
    """Return True inside of a command with ``--trust``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_TRUST))


def pipeline_options(function: F) -> F:
    """Add the options for the pipeline and its configs."""
    function = click.option(
        "--assume",
        "assumed",
        multiple=True,
        metavar="FACT",
        help="A fact that already holds for the graph, so that steps which need it may come first; repeatable.",
    )(function)
    function = click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="YAML with the configs of the standard pipelines (default: their default configs).",
    )(function)
    return click.option(
        "-p",
        "--pipeline",
        metavar="PIPELINE",
        shell_complete=pipelines,
        help="Steps, such as 'canonicalize,repeat(cse,dce)', or a standard pipeline: prepare, finalize, prune, "
        "palettize, joint.",
    )(import_option(function))


def _remember_traceback(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[console.TRACEBACK] = True

"""The arguments that commands share, and their completion."""

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
    """The option that says which modules to import first; they are, before anything else is looked up."""
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
    """Import `names`; the current directory is looked at too.

    Raises:
        PassctlError: when one cannot be imported.
    """
    if ctx.resilient_parsing:  # the shell asks for completions
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
    """Example models by name, then files."""
    from graphpress.tools.models.registry import MODELS

    names = [CompletionItem(name) for name in MODELS if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def pipelines(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Standard pipelines, and passes to go on with after a comma."""
    head, comma, last = incomplete.rpartition(",")
    names = [*pass_names(), *(() if comma else STANDARD_PIPELINES)]
    return [CompletionItem(f"{head}{comma}{name}") for name in sorted(names) if name.startswith(last)]


def passes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Passes by name."""
    return [CompletionItem(name) for name in pass_names() if name.startswith(incomplete)]


def pass_names() -> list[str]:
    """The names of all registered passes."""
    from graphpress.passes.framework.registry import registered_passes

    return [cls.name for cls in registered_passes()]


def command(name: str, *examples: str) -> Callable[[F], click.Command]:
    """A click command with ``--json`` and ``--traceback``, and `examples` under its help."""
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
    """The argument that says which model."""
    return click.argument(name, metavar=name.upper(), required=required, shell_complete=models)


def input_options(function: F) -> F:
    """The options that say which example inputs the model is captured with."""
    function = click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="SHAPE[:DTYPE]",
        help="Shape of an example input, such as 1x3x32x32 or 1x12:int64; repeat for several. Floats are drawn from a "
        "normal distribution, integers are zero.",
    )(function)
    return click.option(
        "--inputs",
        "inputs_file",
        type=click.Path(path_type=Path),
        help="Example inputs: .npz, .safetensors, or .pt with tensors.",
    )(function)


def pipeline_options(function: F) -> F:
    """The options that say which pipeline, and where its passes come from."""
    function = click.option(
        "--assume",
        "assumed",
        multiple=True,
        metavar="FACT",
        help="A fact that holds of the graph already, so that steps which need it may come first; repeatable.",
    )(function)
    function = click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="YAML with the configs of the standard pipelines; their defaults otherwise.",
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

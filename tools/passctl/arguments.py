"""The arguments that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from graphpress.tools.passctl import completion, console
from graphpress.tools.passctl.importing import import_option

F = TypeVar("F", bound=Callable[..., Any])


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
    return click.argument(name, metavar=name.upper(), required=required, shell_complete=completion.models)


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
        shell_complete=completion.pipelines,
        help="Steps, such as 'canonicalize,repeat(cse,dce)', or a standard pipeline: prepare, finalize, prune, "
        "palettize, joint.",
    )(import_option(function))


def _remember_traceback(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[console.TRACEBACK] = True

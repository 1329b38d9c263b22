"""Modules whose import registers passes or rules that no entry point names."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

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
            from graphpress.tools.passctl.errors import PassctlError

            raise PassctlError(f"--import {name}: {type(error).__name__}: {error}") from error

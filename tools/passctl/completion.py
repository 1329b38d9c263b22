"""What the shell offers after Tab. Quick: nothing here runs a pass or loads a model."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

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

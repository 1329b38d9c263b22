"""`passctl list`: list the passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from graphpress.tools.passctl import arguments, console
from graphpress.tools.passctl.arguments import command, import_option

if TYPE_CHECKING:
    from graphpress.passes.framework import Pass


@command("list", "passctl list", "passctl list fold-batch-norm", "passctl list --json")
@click.argument("name", metavar="[PASS]", required=False, shell_complete=arguments.passes)
@import_option
def list_passes(name: str | None, as_json: bool) -> None:
    """List all passes, or describe one.

    The description has options, facts, effect and package. Passes of other packages are found by their entry points in
    the group `graphpress.passes`, or by --import.
    """
    from graphpress.passes.framework import lookup_pass, registered_passes
    from graphpress.tools.passctl.as_data import describe

    if name is not None:
        description = describe(lookup_pass(name))
        if as_json:
            console.print_json(description)
        else:
            console.print_text(_page(description))
    elif as_json:
        console.print_json([describe(cls) for cls in registered_passes()])
    else:
        _print_all(registered_passes())


def _print_all(passes: tuple[type[Pass], ...]) -> None:
    from graphpress.passes.framework.registry import provider

    packages = {provider(cls) for cls in passes}
    rows = [(cls.name, cls.summary(), *([provider(cls)] if len(packages) > 1 else ())) for cls in passes]
    width = max(len(row[0]) for row in rows)
    for pass_name, *rest in rows:
        console.print_text(f"{click.style(pass_name.ljust(width), bold=True)}  {'  '.join(rest)}")


def _page(description: dict[str, Any]) -> str:
    lines = [description["name"], "", *(f"  {line}".rstrip() for line in description["doc"].splitlines()), ""]
    lines.append("Options:" if description["options"] else "Options: none")
    for option in description["options"]:
        default = "required" if option["required"] else f"default {option['default']}"
        lines.append(f"  {option['name']}: {option['type']}, {default}")
    for kind in ("needs", "gives", "breaks"):
        facts = description[kind]
        if isinstance(facts, str):
            lines.append(f"{kind.capitalize()}: {facts}")
            continue
        lines.append(f"{kind.capitalize()}:" if facts else f"{kind.capitalize()}: nothing")
        lines += [f"  {fact['name']}: {fact['description']}".rstrip(": ") for fact in facts]
    lines.append(f"Effect: {description['effect']}")
    if description["rules"]:
        lines.append("Rules:")
        lines += [f"  {rule['name']}: {rule['summary']}".rstrip(": ") for rule in description["rules"]]
    lines.append(f"From: {description['package']} ({description['class']})")
    return "\n".join(lines)

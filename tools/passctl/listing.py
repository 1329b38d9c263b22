"""`passctl list`: the passes and rules there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from graphpress.tools.passctl import arguments, console
from graphpress.tools.passctl.arguments import command, import_option

if TYPE_CHECKING:
    from graphpress.passes.framework import Pass


@command("list", "passctl list", "passctl list fold-batch-norm", "passctl list --rules", "passctl list --json")
@click.argument("name", metavar="[PASS]", required=False, shell_complete=arguments.passes)
@click.option("--rules", is_flag=True, help="List the rules of all passes instead, as PASS/RULE.")
@import_option
def list_passes(name: str | None, rules: bool, as_json: bool) -> None:
    """List all passes, or describe one: its options, facts, effect, rules, and the package it comes from.

    The description has options, facts, effect and package. Passes of other packages are found by their entry points in
    the group `graphpress.passes`, or by --import.
    """
    from graphpress.passes.framework import lookup_pass, registered_passes
    from graphpress.tools.passctl.as_data import describe, describe_rules

    if rules and name is not None:
        raise click.UsageError("say either a PASS, whose rules are then listed with it, or --rules")
    if rules and as_json:
        console.print_json(describe_rules())
    elif rules:
        _print_rows([(rule["name"], rule["summary"]) for rule in describe_rules()])
    elif name is not None:
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
    _print_rows([(cls.name, cls.summary(), *([provider(cls)] if len(packages) > 1 else ())) for cls in passes])


def _print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    width = max((len(row[0]) for row in rows), default=0)
    for name, *rest in rows:
        console.print_text(f"{click.style(name.ljust(width), bold=True)}  {'  '.join(rest)}".rstrip())


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

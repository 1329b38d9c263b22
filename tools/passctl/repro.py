"""`passctl repro`: replay a reproducer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, import_option

if TYPE_CHECKING:
    from graphpress.passes.framework.debugging.bundles import Bundle
    from graphpress.passes.framework.debugging.reproduction import Failure


@command(
    "repro",
    "passctl repro failed/",
    "passctl repro failed/ --import my_passes",
    "passctl repro failed/ --check 'python accuracy.py'",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--check",
    metavar="CMD",
    help="The check command, for a failure that only a command shows. A command recorded in a reproducer "
    "is never run automatically.",
)
@import_option
@click.pass_context
def repro(ctx: click.Context, bundle: Path, check: str | None, as_json: bool) -> None:
    """Replay the reproducer BUNDLE.

    Runs its pipeline on its graph and inputs. Exit code 1 if it fails, 0 if it no longer fails.
    """
    from graphpress.passes.framework.debugging.bundles import Bundle
    from graphpress.tools.passctl.checks import failing

    found = Bundle.load(bundle)
    with failing(found, check) as fails:
        failure = fails(found.case())
    is_same = failure is not None and failure.is_like(found.failure)
    if as_json:
        console.print_json(
            {
                "reproduced": is_same,
                "failure": None if failure is None else str(failure),
                "message": None if failure is None else failure.message,
                "expected": str(found.failure),
                "versions": dict(found.versions),
            }
        )
    else:
        _report(found, failure, is_same)
    ctx.exit(0 if failure is None else 1)


def _report(bundle: Bundle, failure: Failure | None, is_same: bool) -> None:
    from graphpress.passes.framework.debugging.bundles import installed_versions

    now = installed_versions()
    for package, version in bundle.versions.items():
        if now.get(package) != version:
            console.report(f"written with {package} {version}; this is {now.get(package, 'without it')}")
    console.report(f"{len(bundle.graph.nodes)} nodes, pipeline {bundle.pipeline_text}")
    if failure is None:
        console.print_text(f"no longer fails: {bundle.failure}")
    elif is_same:
        console.print_text(f"reproduced: {failure}\n{failure.message}")
    else:
        console.print_text(f"fails differently: {failure}\n{failure.message}\nexpected: {bundle.failure}")

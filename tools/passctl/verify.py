"""`passctl verify`: check the graph, and every step against the declarations of its pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument, pipeline_options

if TYPE_CHECKING:
    from graphpress.tools.passctl.verification import Verdict


@command(
    "verify",
    "passctl verify graph.gir",
    "passctl verify small_resnet -p prepare",
    "passctl verify model.pt2 -p 'canonicalize,fold-batch-norm' --numerics --inputs example.npz",
)
@model_argument()
@pipeline_options
@click.option(
    "--numerics",
    is_flag=True,
    help="Run the graph before and after every step, and check the pass's effect. The captured graph is "
    "compared with the model itself.",
)
@input_options
@click.pass_context
def verify(
    ctx: click.Context,
    model: str,
    pipeline: str | None,
    config_file: Path | None,
    assumed: tuple[str, ...],
    numerics: bool,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check MODEL and every step of a pipeline.

    Checks invariants, facts and, if requested, drift. Exit code 1 if a check fails.
    """
    from graphpress.tools.passctl.models import resolve
    from graphpress.tools.passctl.pipelines import resolve_pipeline
    from graphpress.tools.passctl.verification import check

    steps = None if pipeline is None else resolve_pipeline(pipeline, config_file, assumed)
    verdict = check(resolve(model, inputs_file, input_shapes), steps, numerics)
    if as_json:
        console.print_json(verdict.data())
    else:
        _report(verdict, numerics)
    ctx.exit(0 if verdict.ok else 1)


def _report(verdict: Verdict, numerics: bool) -> None:
    columns = ("step", "edits", *(("drift", "allowed") if numerics else ()), "")
    console.report_table("", columns, [check.row(numerics) for check in verdict.checks])
    for problem in verdict.problems:
        console.report(problem)
    console.print_text("ok" if verdict.ok else _count(verdict.problems))


def _count(problems: list[str]) -> str:
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"

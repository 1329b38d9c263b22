"""`passctl verify-artifact`: compare a saved model with its source model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument

if TYPE_CHECKING:
    from graphpress.tools.passctl.artifacts import ArtifactVerdict


@command(
    "verify-artifact",
    "passctl verify-artifact out.aimodel --against finalized.pt2",
    "passctl verify-artifact model.mlpackage --against model.pt2 --inputs x.npz --json",
)
@model_argument("artifact")
@click.option("--against", required=True, metavar="MODEL", help="The source model: a MODEL, such as a .pt2.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=None,
    help="Largest accepted difference of an output, in units of its range; by default what rounding explains.",
)
@click.option("--blame", is_flag=True, help="Also find the first operator whose output differs.")
@input_options
@click.pass_context
def verify_artifact(
    ctx: click.Context,
    artifact: str,
    against: str,
    tolerance: float | None,
    blame: bool,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare a saved model with its source model.

    ARTIFACT is an .aimodel or an .mlpackage. Outputs: an .aimodel is executed by its runtime, the program of an
    .mlpackage is imported and evaluated. Weights: each must be in the file bit for bit, once unpacked. Operators that
    unpack weights and quantize activations: no fewer than in the model. Bytes: those of the stored constants, and no
    more than the model's own. With --blame, both are also run with their intermediate values, and the first operator
    whose output differs by more than rounding explains is named, with its module, source line and errors.

    Exit code 1 if there is a difference, 2 if the artifact is damaged or another error occurs.
    """
    from graphpress.tools.passctl.artifacts import blamed, verify
    from graphpress.tools.passctl.models import resolve

    subject = resolve(against, inputs_file, input_shapes)
    verdict = verify(Path(artifact), subject, tolerance)
    report = blamed(Path(artifact), subject) if blame else None
    if as_json:
        console.print_json(verdict.data() | ({} if report is None else {"blame": report.data()}))
    else:
        if report is not None:
            console.report(str(report))
        _report(verdict)
    ctx.exit(0 if verdict.ok else 1)


def _report(verdict: ArtifactVerdict) -> None:
    console.report(str(verdict.outputs))
    console.report_table("", ("", "artifact", "model", ""), verdict.rows())
    for problem in verdict.problems:
        console.report(problem)
    problems = len(verdict.problems)
    console.print_text("ok" if verdict.ok else f"{problems} problem{'s' if problems > 1 else ''}")

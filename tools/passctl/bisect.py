"""`passctl bisect`: find the first bad step of a pipeline and the first bad rewrite in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument, pipeline_options

if TYPE_CHECKING:
    from graphpress.passes.framework import Pipeline
    from graphpress.passes.framework.debugging.bisection import Bisection
    from graphpress.tools.passctl.models import Subject


@command(
    "bisect",
    "passctl bisect small_resnet -p prepare",
    "passctl bisect model.pt2 -p 'canonicalize,fold-batch-norm' --check 'python accuracy.py' --save bad/",
    "passctl bisect resnet50 -p prepare --rtol 1e-4",
)
@model_argument()
@pipeline_options
@click.option(
    "--check",
    default="numerics",
    show_default=True,
    metavar="CMD",
    help="A command that gets the path of a saved .gir as its last argument, and exits with 0 if the graph is good, "
    "1 if it is bad. 'numerics' runs the graph and checks every step against its pass's effect.",
)
@click.option(
    "--rtol",
    type=click.FloatRange(min=0),
    help="For numerics: the tolerated change of the outputs over all steps, relative to the largest element; replaces "
    "the effects of the passes.",
)
@click.option(
    "--save",
    "bundle",
    type=click.Path(path_type=Path),
    help="Write the bad step as a reproducer to this folder, for `passctl repro` and `passctl reduce`.",
)
@input_options
@click.pass_context
def bisect(
    ctx: click.Context,
    model: str,
    pipeline: str | None,
    config_file: Path | None,
    assumed: tuple[str, ...],
    check: str,
    rtol: float | None,
    bundle: Path | None,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find the first bad step of a pipeline over MODEL.

    Then finds the first bad rewrite in it: the first one after which the graph is bad. A step that fails is bad too.
    Exit code 0 if all is good, 1 if something is bad.
    """
    if pipeline is None:
        raise click.UsageError("bisect needs a --pipeline")
    if rtol is not None and (check != "numerics" or bundle is not None):
        raise click.UsageError("--rtol needs --check numerics and excludes --save: no single step is at fault")
    from graphpress.tools.passctl.models import resolve
    from graphpress.tools.passctl.pipelines import resolve_pipeline

    subject = resolve(model, inputs_file, input_shapes)
    found = _find(subject, resolve_pipeline(pipeline, config_file, assumed), check, rtol)
    if found is not None and bundle is not None:
        _save(found, subject, check, bundle)
    if as_json:
        console.print_json(_data(found))
    else:
        console.print_text("nothing is bad" if found is None else str(found))
    ctx.exit(0 if found is None else 1)


def _find(subject: Subject, pipeline: Pipeline, check: str, rtol: float | None) -> Bisection | None:
    from graphpress.passes.framework import CLOSE
    from graphpress.passes.framework.debugging import bisection
    from graphpress.tools.passctl.checks import NUMERICS, command_check

    if check == NUMERICS:
        effect = None if rtol is None else CLOSE(rtol=rtol, atol=0.0)
        return bisection.bisect_numerics(subject.graph(), pipeline, subject.flat_inputs(), effect=effect)
    with command_check(check) as is_good:
        return bisection.bisect(subject.graph(), pipeline, is_good)


def _save(found: Bisection, subject: Subject, check: str, folder: Path) -> None:
    from graphpress.ir.errors import GraphpressError
    from graphpress.passes.framework.debugging.bundles import Bundle
    from graphpress.passes.framework.debugging.reproduction import Failure

    try:
        inputs = subject.flat_inputs()
    except GraphpressError:  # check commands also receive graphs without data
        inputs = None
    case = found.case(inputs)
    failure = case.attempt() or Failure.of_check(check, found.step)
    Bundle.of(case, failure, report=str(found)).save(folder)
    console.report(f"reproducer written; replay it with: passctl repro {folder}")


def _data(found: Bisection | None) -> dict[str, Any]:
    from graphpress.tools.passctl.as_data import location_data

    if found is None:
        return {"found": False}
    data: dict[str, Any] = {"found": True, "step": found.step.label, "problem": found.problem, "rewrite": None}
    if found.rewrite is not None:
        bad, rewrite = found.rewrite, found.rewrite.rewrite
        data["rewrite"] = {
            "number": rewrite.number,
            "first": bad.first,
            "total": bad.total,
            "title": rewrite.title,
            "node": rewrite.node_name or None,
            "op": rewrite.op_name or None,
            "location": location_data(rewrite.location),
            "diff": bad.diff().splitlines(),
        }
    return data

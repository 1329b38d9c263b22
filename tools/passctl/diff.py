"""`passctl diff`: compare two graphs, or the graphs before and after a step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument, pipeline_options

if TYPE_CHECKING:
    from graphpress.ir.graph import Graph


@command(
    "diff",
    "passctl diff before.gir after.gir",
    "passctl diff small_resnet -p prepare --step fold-batch-norm",
    "passctl diff model.pt2 -p 'canonicalize,repeat(cse,dce)' --step 2",
    "passctl diff small_resnet -p prepare",
)
@model_argument("a")
@model_argument("b", required=False)
@pipeline_options
@click.option(
    "--step",
    metavar="STEP",
    help="Compare before and after this step: an address, or its number from 1; without it, "
    "before and after the whole pipeline.",
)
@input_options
@click.pass_context
def diff(
    ctx: click.Context,
    a: str,
    b: str | None,
    pipeline: str | None,
    config_file: Path | None,
    assumed: tuple[str, ...],
    step: str | None,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare two graphs.

    The graphs are those of models A and B, or of A before and after a step of a pipeline. Nodes are aligned by
    operation and context, so names, order and source locations do not matter. Exit code 0 if the graphs are the same, 1
    if they differ.
    """
    if (b is None) == (pipeline is None):
        raise click.UsageError("diff takes two models, or one model and a --pipeline")
    if step is not None and pipeline is None:
        raise click.UsageError("--step needs a --pipeline")
    from graphpress.ir.diff import diff_graphs
    from graphpress.tools.passctl.diff_text import diff_data, diff_lines
    from graphpress.tools.passctl.models import resolve
    from graphpress.tools.passctl.pipelines import starting_graph

    graph = starting_graph(resolve(a, inputs_file, input_shapes), pipeline, config_file)
    if b is not None:
        first, second = graph, resolve(b, inputs_file, input_shapes).graph()
    else:
        assert pipeline is not None
        first, second = _around(graph, pipeline, config_file, assumed, step)
    difference = diff_graphs(first, second)
    if as_json:
        console.print_json(diff_data(difference))
    else:
        for line, colour in diff_lines(difference):
            console.print_text(click.style(line, fg=colour))
        console.report(
            f"{len(difference.removed)} nodes removed, {len(difference.added)} added, {len(difference.changed)} "
            f"changed, {len(difference.alignment.pairs) - len(difference.changed)} the same; {len(difference.renamed)} "
            "have another name"
        )
    ctx.exit(0 if difference.is_empty else 1)


def _around(
    graph: Graph, text: str, config_file: Path | None, assumed: tuple[str, ...], step: str | None
) -> tuple[Graph, Graph]:
    """Return the graph before and after a step, or the whole pipeline."""
    from graphpress.passes.framework import Runner
    from graphpress.tools.passctl.pipelines import resolve_pipeline
    from graphpress.tools.passctl.views import Around, numbered, report_step

    pipeline = resolve_pipeline(text, config_file, assumed)
    if step is None:
        return graph, Runner().run(graph, pipeline).graph
    around = Around.at(numbered(step, pipeline), pipeline)
    result = Runner([around]).run(graph, pipeline, in_place=True)
    around.check(result)
    assert around.before_graph is not None
    for record in result.records:
        if not record.skipped and around.is_at(record.step):
            report_step(record)
    return around.before_graph, result.graph

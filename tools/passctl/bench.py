"""`passctl bench`: seconds per pass over the size of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument, pipeline_options

if TYPE_CHECKING:
    from graphpress.tools.passctl.scaling import Measured


@command(
    "bench",
    "passctl bench resnet50 -p prepare",
    "passctl bench small_resnet -p 'canonicalize,repeat(cse,dce)' --copies 1 --copies 10 --copies 100",
)
@model_argument()
@pipeline_options
@click.option(
    "--copies",
    multiple=True,
    type=click.IntRange(min=1),
    default=(1, 4),
    show_default="1 and 4",
    help="Size: the number of copies of the model's graph, side by side; repeatable.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of runs; the median is reported.",
)
@input_options
def bench(
    model: str,
    pipeline: str | None,
    config_file: Path | None,
    assumed: tuple[str, ...],
    copies: tuple[int, ...],
    repeats: int,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Time every step of a pipeline over MODEL.

    Measures several sizes of the model's graph. "grows" is the time per node at the largest size relative to the
    smallest: 1 is linear.
    """
    if pipeline is None:
        raise click.UsageError("bench needs a --pipeline")
    from graphpress.tools.passctl.models import resolve
    from graphpress.tools.passctl.pipelines import resolve_pipeline, starting_graph
    from graphpress.tools.passctl.scaling import measure

    steps = resolve_pipeline(pipeline, config_file, assumed)
    graph = starting_graph(resolve(model, inputs_file, input_shapes), pipeline, config_file)
    measured = [measure(graph, steps, count, repeats) for count in sorted(set(copies))]
    if as_json:
        console.print_json([each.data() for each in measured])
        return
    _print(measured)


def _print(measured: list[Measured]) -> None:
    first, last = measured[0], measured[-1]
    columns = ["step", *(f"{each.nodes:,} nodes" for each in measured), "us per node", "share"]
    columns += ["grows"] if len(measured) > 1 else []
    rows = []
    for step in [*last.seconds, None]:
        seconds = [each.total if step is None else each.seconds.get(step, 0.0) for each in measured]
        row = [step or "all", *(f"{value:.4f} s" for value in seconds), f"{seconds[-1] / last.nodes * 1e6:.1f}"]
        row.append(f"{seconds[-1] / last.total:.0%}" if last.total else "-")
        if len(measured) > 1:
            start, end = seconds[0] / first.nodes, seconds[-1] / last.nodes
            row.append(f"{end / start:.2f}x" if start else "-")
        rows.append(row)
    console.stdout_console().print(console.table("", columns, rows))

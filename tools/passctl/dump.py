"""`passctl dump`: the graph of a model, anywhere in a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument, pipeline_options

if TYPE_CHECKING:
    from graphpress.ir.graph import Graph
    from graphpress.passes.framework import Pipeline
    from graphpress.tools.passctl.views import Snapshot, View


@command(
    "dump",
    "passctl dump small_resnet",
    "passctl dump models.edsr:build --input-shape 1x3x24x24 -p prepare --after fold-batch-norm",
    "passctl dump model.pt2 -p 'canonicalize,repeat(cse,dce)' --changed",
    "passctl dump graph.gir --focus conv2d_3 --hops 2",
)
@model_argument()
@pipeline_options
@click.option("--before", metavar="STEP", help="Stop right before this step, such as dce#2.")
@click.option("--after", metavar="STEP", help="Stop right after this step; dce#1@3 is its third round in a repeat.")
@click.option("--changed", is_flag=True, help="Print the graph after every step that changed it.")
@click.option("--focus", metavar="NODE", help="Print only the surroundings of this node.")
@click.option("--hops", type=click.IntRange(min=0), default=2, show_default=True, help="How far --focus reaches.")
@click.option("--locations/--no-locations", default=True, show_default=True, help="Module paths and source lines.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")
@input_options
def dump(
    model: str,
    pipeline: str | None,
    config_file: Path | None,
    assumed: tuple[str, ...],
    before: str | None,
    after: str | None,
    changed: bool,
    focus: str | None,
    hops: int,
    locations: bool,
    output: Path | None,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print the graph of MODEL as text: as captured, or before or after any step of a pipeline.

    The text goes to stdout; what the steps did goes to stderr.
    """
    if before and after:
        raise click.UsageError("--before and --after exclude each other")
    if (before or after or changed) and pipeline is None:
        raise click.UsageError("--before, --after and --changed need a --pipeline")
    from graphpress.tools.passctl.models import resolve
    from graphpress.tools.passctl.pipelines import resolve_pipeline
    from graphpress.tools.passctl.starting import starting_graph
    from graphpress.tools.passctl.views import View
    from graphpress.tools.passctl.writing import check_writable, write_text

    if output is not None:
        if output.suffix == ".gir":
            raise click.UsageError("dump writes text alone, without the data a .gir needs: use `passctl run -o`")
        check_writable(output)
    view = View(locations, focus, hops)
    steps = None if pipeline is None else resolve_pipeline(pipeline, config_file, assumed)
    graph = starting_graph(resolve(model, inputs_file, input_shapes), pipeline, config_file)
    # What goes to stdout is printed as it comes, so that it is seen even when a later step fails.
    is_printing = output is None and not as_json
    snapshots = _run(graph, steps, before, after, view, changed, is_printing)
    if is_printing:
        return
    if as_json:
        text = console.json_text({"snapshots": [view.data(snapshot) for snapshot in snapshots]})
    else:
        text = view.page(snapshots)
    if output is None:
        console.print_text(text)
    else:
        write_text(output, text)


def _run(
    graph: Graph,
    pipeline: Pipeline | None,
    before: str | None,
    after: str | None,
    view: View,
    changed: bool,
    is_printing: bool,
) -> list[Snapshot]:
    from graphpress.passes.framework import Runner
    from graphpress.tools.passctl.step_reports import report_steps
    from graphpress.tools.passctl.stopping import StopAfter, StopBefore
    from graphpress.tools.passctl.views import ChangedSnapshots, Snapshot

    snapshot = Snapshot("captured", graph)
    if pipeline is not None:
        stop = StopBefore.at(before, pipeline) if before else StopAfter.at(after, pipeline) if after else None
        watch = ChangedSnapshots(graph, view, is_printing) if changed else None
        hooks = [hook for hook in (stop, watch) if hook is not None]
        result = Runner(hooks).run(graph, pipeline, in_place=True)
        if stop is not None:
            stop.check(result)
        report_steps(result)
        if watch is not None:
            watch.check(result.graph)
            return watch.snapshots
        title = f"before {before}" if before else f"after {after or 'all steps'}"
        snapshot = Snapshot(title, result.graph, [record for record in result.records if not record.skipped])
    if is_printing:
        console.print_ir(view.text(snapshot.graph))
    return [snapshot]

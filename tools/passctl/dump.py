"""`passctl dump`: show the graph of a model at any step of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument, pipeline_options

if TYPE_CHECKING:
    from graphpress.ir.graph import Graph
    from graphpress.passes.framework import Hook, Pipeline, StepRecord
    from graphpress.tools.passctl.views import Snapshot, View

FORMATS = ("text", "json", "dot", "html")
_SUFFIXES = {".json": "json", ".dot": "dot", ".gv": "dot", ".html": "html", ".htm": "html"}


@command(
    "dump",
    "passctl dump small_resnet",
    "passctl dump models.edsr:build --input-shape 1x3x24x24 -p prepare --after fold-batch-norm",
    "passctl dump model.pt2 -p 'canonicalize,repeat(cse,dce)' --changed",
    "passctl dump graph.gir --focus conv2d_3 --hops 2",
    "passctl dump small_resnet -p joint --format html -o joint.html",
)
@model_argument()
@pipeline_options
@click.option("--before", metavar="STEP", help="Stop right before this step, such as dce#2.")
@click.option("--after", metavar="STEP", help="Stop right after this step; dce#1@3 is its third round in a repeat.")
@click.option("--changed", is_flag=True, help="Show the graph after every step that changed it.")
@click.option("--focus", metavar="NODE", help="Show only the neighbourhood of this node.")
@click.option(
    "--hops",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="The size of the --focus neighbourhood, in steps.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    help="text; json, as --json; dot, for Graphviz, with the changes of the last step in colour; html, one page with "
    "every step of the pipeline and its changes. Default: by the suffix of --output, otherwise text.",
)
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
    format_name: str | None,
    locations: bool,
    output: Path | None,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the graph of MODEL.

    The graph is the captured one, or the one before or after any step of a pipeline. It goes to stdout; a report of the
    steps goes to stderr.
    """
    if before and after:
        raise click.UsageError("--before and --after exclude each other")
    if (before or after or changed) and pipeline is None:
        raise click.UsageError("--before, --after and --changed need a --pipeline")
    format_name = _format(format_name, as_json, output)
    if format_name == "html" and not locations:
        raise click.UsageError(
            "a page shows locations where they are asked for; --no-locations goes with other formats"
        )
    from graphpress.ir.files import check_writable
    from graphpress.tools.passctl.models import resolve
    from graphpress.tools.passctl.pipelines import resolve_pipeline, starting_graph
    from graphpress.tools.passctl.views import View

    if output is not None:
        if output.suffix == ".gir":
            raise click.UsageError("dump writes text alone, without the data a .gir needs: use `passctl run -o`")
        check_writable(output)
    view = View(locations, focus, hops)
    steps = None if pipeline is None else resolve_pipeline(pipeline, config_file, assumed)
    graph = starting_graph(resolve(model, inputs_file, input_shapes), pipeline, config_file)
    if format_name == "html":
        _page(graph, steps, (before, after), view, changed, model, pipeline, output)
        return
    # Text for stdout is printed immediately, so that it is shown even if a later step fails.
    is_printing = output is None and format_name == "text"
    snapshots = _snapshots(graph, steps, (before, after), view, changed, is_printing)
    if not is_printing:
        _write(_rendered(snapshots, view, format_name), output)


def _format(name: str | None, as_json: bool, output: Path | None) -> str:
    if as_json:
        if name not in (None, "json"):
            raise click.UsageError(f"--json and --format {name} exclude each other")
        return "json"
    if name is not None:
        return name
    return _SUFFIXES.get(output.suffix.lower(), "text") if output is not None else "text"


def _rendered(snapshots: list[Snapshot], view: View, format_name: str) -> str:
    if format_name == "json":
        return console.json_text({"snapshots": [view.data(snapshot) for snapshot in snapshots]})
    if format_name == "dot":
        return "\n".join(map(view.drawing, snapshots))
    return view.page(snapshots)


def _write(text: str, output: Path | None) -> None:
    from graphpress.ir.files import write_file

    if output is None:
        console.print_text(text)
    else:
        write_file(output, text)


def _page(
    graph: Graph,
    steps: Pipeline | None,
    point: tuple[str | None, str | None],
    view: View,
    changed: bool,
    model: str,
    pipeline: str | None,
    output: Path | None,
) -> None:
    """Write the page, also if a step fails, since the steps before it explain the failure."""
    from graphpress.tools.passctl.page import Opening, Recording, page

    recording = Recording(graph, only_changed=changed)
    try:
        if steps is not None:
            _run(graph, steps, point, [recording])
    finally:
        if view.focus is not None:
            recording.check_node(view.focus)
        _write(page(recording, model, pipeline, Opening(view.focus, view.hops)), output)


def _snapshots(
    graph: Graph,
    pipeline: Pipeline | None,
    point: tuple[str | None, str | None],
    view: View,
    changed: bool,
    is_printing: bool,
) -> list[Snapshot]:
    from graphpress.tools.passctl.views import ChangedSnapshots, Snapshot

    snapshot = Snapshot("captured", graph)
    if pipeline is not None:
        watch = ChangedSnapshots(graph, view, is_printing) if changed else None
        graph, records = _run(graph, pipeline, point, [] if watch is None else [watch])
        if watch is not None:
            watch.check(graph)
            return watch.snapshots
        before, after = point
        title = f"before {before}" if before else f"after {after or 'all steps'}"
        snapshot = Snapshot(title, graph, records)
    if is_printing:
        console.print_ir(view.text(snapshot.graph))
    return [snapshot]


def _run(
    graph: Graph, pipeline: Pipeline, point: tuple[str | None, str | None], watching: list[Hook]
) -> tuple[Graph, list[StepRecord]]:
    """Run the pipeline up to `point`, and return the graph there with the step records."""
    from graphpress.passes.framework import Runner
    from graphpress.tools.passctl.views import StopAfter, StopBefore, report_steps

    before, after = point
    stop = StopBefore.at(before, pipeline) if before else StopAfter.at(after, pipeline) if after else None
    result = Runner([*([] if stop is None else [stop]), *watching]).run(graph, pipeline, in_place=True)
    if stop is not None:
        stop.check(result)
    report_steps(result)
    return result.graph, [record for record in result.records if not record.skipped]

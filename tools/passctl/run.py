"""`passctl run`: run a pipeline on a model, and save the result as a graph or for a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument, pipeline_options

if TYPE_CHECKING:
    from graphpress.passes.framework import RunResult
    from graphpress.passes.framework.hooks import Statistics, Timing


@command(
    "run",
    "passctl run small_resnet -p 'canonicalize,fold-batch-norm,dce' -o folded.gir",
    "passctl run model.pt2 -p prepare --stop-after fold-batch-norm -o folded.gir --timing --stats",
    "passctl run graph.gir -p 'repeat(cse,dce)' --dump steps/",
    "passctl run float.aimodel -p quantize-weights -o int8.aimodel",
    "passctl run float.mlpackage -p palettize-weights -o tables.mlpackage --target iOS16",
)
@model_argument()
@pipeline_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to save the graph: *.gir, or, for a runtime, *.aimodel or *.mlpackage.",
)
@click.option("--target", help="For Core ML, the oldest system that the package supports.  [default: iOS18]")
@click.option("--stop-after", metavar="STEP", help="Do not run the steps after this one.")
@click.option("--timing", is_flag=True, help="Show the seconds of every step.")
@click.option("--stats", is_flag=True, help="Show the statistics of every pass.")
@click.option(
    "--dump", "dump_folder", type=click.Path(path_type=Path), help="Write the graph after every step to this folder."
)
@input_options
def run(
    model: str,
    pipeline: str | None,
    config_file: Path | None,
    assumed: tuple[str, ...],
    output: Path | None,
    target: str | None,
    stop_after: str | None,
    timing: bool,
    stats: bool,
    dump_folder: Path | None,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a pipeline over MODEL and save the result.

    The result is saved as a graph, with its data in a .safetensors file beside it, or converted for a runtime. A saved
    model is preserved except for the changes of the passes. An existing output is kept until the new file is complete.
    """
    if pipeline is None:
        raise click.UsageError("run needs a --pipeline")
    from graphpress.passes.framework import Runner
    from graphpress.passes.framework.hooks import Dump, Statistics, Timing
    from graphpress.tools.passctl.artifacts import destination_of
    from graphpress.tools.passctl.models import resolve
    from graphpress.tools.passctl.pipelines import resolve_pipeline, starting_graph
    from graphpress.tools.passctl.views import StopAfter, report_steps

    if output is None and target is not None:
        raise click.UsageError("--target is for an output that ends in .mlpackage")
    destination = None if output is None else destination_of(output, target)
    if destination is not None:
        destination.check(model)
    steps = resolve_pipeline(pipeline, config_file, assumed)
    stop = None if stop_after is None else StopAfter.at(stop_after, steps)
    times, statistics = Timing(), Statistics()
    dump = None if dump_folder is None else Dump(dump_folder)
    graph = starting_graph(resolve(model, inputs_file, input_shapes), pipeline, config_file)
    hooks = [hook for hook in (stop, dump, times, statistics) if hook is not None]
    result = Runner(hooks).run(graph, steps, in_place=True)
    if stop is not None:
        stop.check(result)
    if destination is not None:
        destination.save(result.graph)
    if as_json:
        console.print_json({"output": None if output is None else str(output), **_data(result, times, statistics)})
        return
    report_steps(result)
    if timing:
        console.report(str(times))
    if stats and str(statistics):
        console.report(str(statistics))
    if output is not None:
        console.report(f"{len(result.graph.nodes)} nodes saved in {output}")


def _data(result: RunResult, timing: Timing, statistics: Statistics) -> dict[str, Any]:
    from graphpress.ir.plain import to_plain
    from graphpress.tools.passctl.as_data import record_data

    return {
        "nodes": len(result.graph.nodes),
        "steps": [record_data(record) for record in result.records if not record.skipped],
        "unsettled": list(result.unsettled),
        "timing": to_plain(timing.root),
        "statistics": statistics.by_step,
    }

"""`passctl explain`: explain why a rule did not match, or how a value is quantized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphpress.tools.passctl import arguments, console
from graphpress.tools.passctl.arguments import command, input_options, model_argument, pipeline_options

if TYPE_CHECKING:
    from graphpress.ir.graph import Graph
    from graphpress.passes.framework import Pipeline
    from graphpress.tools.passctl.rule_explanations import Subject

_ASSIGNING = "prepare"


@command(
    "explain",
    "passctl explain small_resnet fold-batch-norm --node batch_norm_3",
    "passctl explain model.pt2 my-rule -p 'canonicalize,my-pass'",
    "passctl explain small_resnet --value relu_2 --config weights.yaml",
    "passctl explain small_resnet --accuracy --data batches.npz",
)
@model_argument()
@click.argument("rule", required=False, shell_complete=arguments.passes)
@click.option("--node", metavar="NODE", help="Only matches that would include this node.")
@click.option(
    "--value",
    metavar="NAME",
    help="Explain whether and by which quantizer this value is quantized: a node, an input, or a parameter by its "
    "qualified name. The default pipeline is 'prepare'.",
)
@click.option("--accuracy", is_flag=True, help="Measure what each activation quantizer alone costs in the outputs.")
@click.option(
    "--data",
    "data_path",
    type=click.Path(path_type=Path),
    help="With --accuracy: a file of arrays named as the model's inputs, or a folder of such files, to calibrate and "
    "measure with.  [default: the example inputs]",
)
@click.option("--before", metavar="STEP", help="Use the graph right before this step of the pipeline.")
@click.option("--after", metavar="STEP", help="Use the graph right after this step of the pipeline.")
@click.option(
    "--most", type=click.IntRange(min=1), default=10, show_default=True, help="Number of near misses per rule."
)
@pipeline_options
@input_options
def explain(
    model: str,
    rule: str | None,
    node: str | None,
    value: str | None,
    accuracy: bool,
    data_path: Path | None,
    before: str | None,
    after: str | None,
    most: int,
    pipeline: str | None,
    config_file: Path | None,
    assumed: tuple[str, ...],
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain why RULE does not match in MODEL.

    Lists its near misses, nearest first. RULE is a rule, pass/rule, or a pass: then all of its rules, or, for a pass
    without rules, its rewrites and remarks. The graph is the captured one; with a pipeline, the graph before the first
    step with that rule. With --accuracy, MODEL is quantized by the config, by default in 8 bits, and every quantizer
    is listed with the range of its codes, the percentage of values in it, and the signal-to-noise ratio of the outputs
    with it alone.
    """
    if [rule is not None, value is not None, accuracy].count(True) != 1:
        raise click.UsageError("pass either a RULE or a --value, or --accuracy")
    if data_path is not None and not accuracy:
        raise click.UsageError("--data needs --accuracy")
    if accuracy:
        if node or before or after or pipeline or assumed:
            raise click.UsageError("--accuracy takes --config and --data, but no pipeline and no point of one")
        _explain_accuracy(model, config_file, data_path, inputs_file, input_shapes, as_json)
        return
    if value is not None and (node or before or after):
        raise click.UsageError("--node, --before and --after need a RULE")
    if (before or after) and pipeline is None:
        raise click.UsageError("--before and --after need a --pipeline")
    if before and after:
        raise click.UsageError("--before and --after exclude each other")
    from graphpress.tools.passctl.models import resolve
    from graphpress.tools.passctl.pipelines import resolve_pipeline

    if value is not None:
        pipeline = pipeline or _ASSIGNING
    steps = None if pipeline is None else resolve_pipeline(pipeline, config_file, assumed)
    graph = resolve(model, inputs_file, input_shapes).graph()
    if value is not None:
        assert steps is not None
        _explain_value(graph, steps, value, as_json)
    else:
        assert rule is not None
        _explain_rule(graph, steps, rule, node, (before, after), most, as_json)


def _explain_accuracy(
    model: str,
    config_file: Path | None,
    data_path: Path | None,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    from graphpress.ir.plain import to_plain
    from graphpress.tools.passctl.accuracy_explanations import measured_costs
    from graphpress.tools.passctl.models import resolve

    costs = measured_costs(resolve(model, inputs_file, input_shapes), config_file, data_path)
    if as_json:
        console.print_json([to_plain(cost) for cost in costs])
        return
    rows = [
        (cost.name, f"{cost.low:.4g}", f"{cost.high:.4g}", f"{cost.percentile:.3f}", f"{cost.decibels:.1f}")
        for cost in costs
    ]
    columns = ("quantizer", "low", "high", "% inside", "dB alone")
    console.stdout_console().print(console.table(f"quantizers of {model}, the most expensive first", columns, rows))


def _explain_value(graph: Graph, pipeline: Pipeline, name: str, as_json: bool) -> None:
    from graphpress.ir.plain import to_plain
    from graphpress.tools.passctl.quantizer_explanations import explain_value

    explanations = explain_value(graph, pipeline, name)
    if as_json:
        console.print_json([to_plain(each) | {"is_quantized": each.is_quantized} for each in explanations])
    else:
        console.print_text("\n\n".join(map(str, explanations)))


def _explain_rule(
    graph: Graph,
    pipeline: Pipeline | None,
    rule: str,
    node: str | None,
    point: tuple[str | None, str | None],
    most: int,
    as_json: bool,
) -> None:
    from graphpress.tools.passctl.rule_explanations import explain_subject, find_subject

    subject = find_subject(rule, pipeline)
    if pipeline is not None:
        graph = _at(graph, pipeline, subject, point)
    explanations: list[Any] = list(explain_subject(subject, graph, node, most))
    if as_json:
        console.print_json([explanation.data() for explanation in explanations])
    else:
        console.print_text("\n\n".join(map(str, explanations)))


def _at(graph: Graph, pipeline: Pipeline, subject: Subject, point: tuple[str | None, str | None]) -> Graph:
    from graphpress.passes.framework import Runner
    from graphpress.tools.passctl.views import StopAfter, StopBefore

    before, after = point
    if before is None and after is None:
        before = subject.address
    stop = StopBefore.at(before, pipeline) if before else StopAfter.at(after, pipeline) if after else None
    result = Runner([] if stop is None else [stop]).run(graph, pipeline, in_place=True)
    if stop is not None:
        stop.check(result)
    return result.graph

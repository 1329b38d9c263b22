"""`passctl reduce`: reduce a reproducer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, import_option

if TYPE_CHECKING:
    from graphpress.passes.framework.debugging.reproduction import Case


@command(
    "reduce",
    "passctl reduce failed/",
    "passctl reduce failed/ -o small/ --check 'python accuracy.py' --max-trials 200",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder for the reduced reproducer (default: BUNDLE-reduced).",
)
@click.option(
    "--check",
    metavar="CMD",
    help="The check command, for a failure that only a command shows.",
)
@click.option(
    "--max-trials",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Maximum number of candidates to try.",
)
@import_option
def reduce(bundle: Path, output: Path | None, check: str | None, max_trials: int, as_json: bool) -> None:
    """Reduce the reproducer BUNDLE.

    Removes nodes, steps and dims as long as it fails in the same way. The reduced reproducer is written beside it; its
    graph is printed.
    """
    from graphpress.ir.text.printer import print_graph
    from graphpress.passes.framework.debugging.bundles import Bundle
    from graphpress.passes.framework.debugging.reduction import ReductionError
    from graphpress.passes.framework.debugging.reduction import reduce as reduce_case
    from graphpress.tools.passctl.checks import failing

    found = Bundle.load(bundle)
    start = found.case()
    target = output or bundle.with_name(f"{bundle.name}-reduced")
    with failing(found, check) as fails:
        expected = fails(start)
        if expected is None:
            raise ReductionError(f"{bundle} does not fail, so there is nothing to reduce")
        reduced = reduce_case(
            start, lambda case: fails(case) == expected, max_trials=max_trials, progress=_Progress(start)
        )
        failure = fails(reduced.case) or expected
    Bundle.of(reduced.case, failure, report=failure.message).save(target)
    nodes, steps = len(reduced.case.graph.nodes), len(reduced.case.pipeline)
    if as_json:
        console.print_json(
            {
                "bundle": str(target),
                "nodes": nodes,
                "nodes_before": len(start.graph.nodes),
                "steps": steps,
                "steps_before": len(start.pipeline),
                "pipeline": str(reduced.case.pipeline),
                "trials": reduced.trials,
                "is_minimal": reduced.is_minimal,
                "failure": str(failure),
            }
        )
        return
    console.print_ir(print_graph(reduced.case.graph))
    ends = "" if reduced.is_minimal else "; the trials were used up, so it may not be minimal"
    console.report(
        f"{len(start.graph.nodes)} nodes to {nodes} in {reduced.trials} trials{ends}\n"
        f"pipeline: {start.pipeline} to {reduced.case.pipeline}\nreplay it with: passctl repro {target}"
    )


class _Progress:
    """Prints a line on stderr for every smaller graph."""

    def __init__(self, start: Case):
        self._nodes = len(start.graph.nodes)

    def __call__(self, case: Case, trials: int) -> None:
        if len(case.graph.nodes) < self._nodes:
            self._nodes = len(case.graph.nodes)
            console.report(f"trial {trials}: {self._nodes} nodes")

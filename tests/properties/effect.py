"""Holding a pass to its effect: the harness every numeric property is stated with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphpress.ir.graph import Graph
from graphpress.ir.verifier import verify
from graphpress.passes.framework import Pass, RunResult, run_pass
from graphpress.passes.framework.hooks.numerics import compare, execute


def assert_effect(pass_: Pass, graph: Graph, inputs: Sequence[Any], *, changes: bool = True) -> RunResult:
    """Run `pass_` over a copy of `graph` and check everything a pass promises.

    The result must be valid; its outputs and writes must be within the pass's effect of those before; facts given are
    checked by the runner; the input graph must be as before; every node must say where it comes from, if all did
    before.

    Args:
        pass_: the pass.
        graph: a valid graph.
        inputs: flat inputs that reach what the pass changes.
        changes: whether the pass must edit the graph: a property that holds because nothing happened says nothing.

    Raises:
        AssertionError: for the first promise that is broken.
    """
    verify(graph)
    original = graph.clone()
    had_locations = all(node.location.origins for node in graph.nodes)
    before = execute(graph, inputs)
    result = run_pass(pass_, graph)
    assert graph == original, f"{pass_} changed its caller's graph"
    if changes:
        assert result.changed, f"{pass_} changed nothing"
    if had_locations:
        lost = [node.name for node in result.graph.nodes if not node.location.origins]
        assert not lost, f"{pass_} made nodes that come from nowhere: {lost}"
    drifts = compare(before, execute(result.graph, inputs), pass_.effect)
    for drift in drifts:
        assert drift.is_held, (
            f"{pass_} is {pass_.effect}, but moved output {drift.output!r} by {drift.error:.6g}, "
            f"{drift.allowed:.6g} being allowed:\n{result.graph}"
        )
    result.records[0].drift = drifts
    return result


def assert_idempotent(pass_: Pass, graph: Graph) -> None:
    """Check that a second run of `pass_` changes nothing.

    Raises:
        AssertionError: when it does; the message says how much.
    """
    once = run_pass(pass_, graph).graph
    twice = run_pass(pass_, once)
    assert not twice.changed, f"{pass_} is not idempotent: {twice.records[0]}"

"""Test harness for the properties of passes.

Each function takes any valid graph, so that a property test can use generated ones, and raises `AssertionError`. Check
each property with a pass that violates it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from graphpress.ir.graph import Graph, Node
from graphpress.ir.verifier import verify
from graphpress.passes.framework.effects import EXACT, Drift, Effect
from graphpress.passes.framework.numerics import compare, execute
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.records import RunResult
from graphpress.passes.framework.runner import Runner, run_pass


def assert_effect(pass_: Pass, graph: Graph, inputs: Sequence[Any], *, changes: bool = True) -> RunResult:
    """Run `pass_` on a copy of `graph` and check the contract of passes.

    The result must be valid; its outputs and writes must be within the pass's effect of the original ones; facts that
    the pass gives are checked by the runner; the input graph must be unchanged; every node must have a location if all
    had one before.

    Args:
        pass_: the pass.
        graph: a valid graph.
        inputs: flat inputs that exercise the changed nodes.
        changes: whether the pass must edit the graph, so that the property cannot hold trivially.

    Raises:
        AssertionError: for the first violation.
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
        assert not lost, f"{pass_} made nodes without a location: {lost}"
    drifts = compare(before, execute(result.graph, inputs), pass_.effect)
    _assert_within(pass_.effect, drifts, str(pass_), result.graph)
    result.records[0].drift = drifts
    return result


def assert_idempotent(pass_: Pass, graph: Graph) -> None:
    """Check that a second run of `pass_` changes nothing.

    Raises:
        AssertionError: if it does; the message has the number of edits.
    """
    once = run_pass(pass_, graph).graph
    twice = run_pass(pass_, once)
    assert not twice.changed, f"{pass_} is not idempotent: {twice.records[0]}"


def assert_independent(
    pipeline: Pipeline, graph: Graph, inputs: Sequence[Any], *, effect: Effect = EXACT, seed: int = 0
) -> None:
    """Check that the result of `pipeline` does not depend on the names or the order of independent nodes.

    The ops of the result and its outputs must be the same.

    Args:
        pipeline: the pipeline.
        graph: a valid graph without random ops, because random numbers depend on their order.
        inputs: flat inputs of it.
        effect: how far the outputs may differ.
        seed: for the names and the order.

    Raises:
        AssertionError: if it does; the message says on which.
    """
    shuffler = random.Random(seed)
    expected = Runner().run(graph, pipeline).graph
    outputs = execute(expected, inputs)
    for what, other in (("names", renamed(graph, shuffler)), ("orders", reordered(graph, shuffler))):
        found = Runner().run(other, pipeline).graph
        same_ops = _ops(found) == _ops(expected)
        assert same_ops, f"the ops left by {pipeline} depend on the {what} of nodes:\n{expected}\n{found}"
        _assert_within(
            effect, compare(outputs, execute(found, inputs), effect), f"{pipeline}, with other {what} of nodes,"
        )


def renamed(graph: Graph, shuffler: random.Random) -> Graph:
    """A copy of `graph` with other node names, and nothing else changed."""
    made = graph.clone()
    nodes = list(made.nodes)
    names = [f"n{number}" for number in range(len(nodes))]
    shuffler.shuffle(names)
    taken = {graph_input.name for graph_input in made.inputs}
    made._names, made._suffixes = set(taken), {}
    for node, name in zip(nodes, names, strict=True):
        node.name = made.fresh_name(name)
    return made


def reordered(graph: Graph, shuffler: random.Random) -> Graph:
    """A copy of `graph` with its nodes in another valid order; nodes with side effects keep their relative order."""
    made = graph.clone()
    waiting = list(made.nodes)
    known = {id(value) for value in made.values() if value.node is None}
    order: list[Node] = []
    while waiting:
        effect = next((node for node in waiting if not node.op.is_pure), None)
        allowed = (node for node in waiting if node.op.is_pure or node is effect)
        free = [node for node in allowed if all(id(read) in known for _, _, read in node.operand_values())]
        node = shuffler.choice(free)
        waiting.remove(node)
        known.update(id(result) for result in node.results)
        order.append(node)
    if not order:
        return made
    made._first, made._last, made._op_index = order[0], order[-1], None
    for node, before, after in zip(order, [None, *order[:-1]], [*order[1:], None], strict=True):
        node._previous, node._next = before, after
    return made


def _assert_within(effect: Effect, drifts: Sequence[Drift], who: str, graph: Graph | None = None) -> None:
    for drift in drifts:
        assert drift.is_held, (
            f"{who} is {effect}, but moved output {drift.output!r} by {drift.error:.6g}, "
            f"{drift.allowed:.6g} being allowed" + ("" if graph is None else f":\n{graph}")
        )


def _ops(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.nodes)

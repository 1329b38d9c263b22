"""Timing of a pipeline on copies of a graph, to measure how it scales."""

from __future__ import annotations

from statistics import median
from typing import Any

from attrs import frozen

from graphpress.ir.graph import Graph, Value
from graphpress.passes.framework import Pipeline, Runner


@frozen
class Measured:
    """Median seconds of every step on a graph of one size, with rounds of a repeat added up."""

    copies: int
    nodes: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Return the sum over all steps."""
        return sum(self.seconds.values())

    def data(self) -> dict[str, Any]:
        """Return the measurement as plain data."""
        return {"copies": self.copies, "nodes": self.nodes, "seconds": self.seconds, "total": self.total}


def measure(graph: Graph, pipeline: Pipeline, copies: int, repeats: int) -> Measured:
    """Time the passes of `pipeline` on `copies` of `graph` side by side, without checks."""
    large = side_by_side(graph, copies)
    nodes = len(large.nodes)
    runs: list[dict[str, float]] = []
    Runner(verify=False).run(large, pipeline)  # warms up caches and compiled code
    for _ in range(repeats):
        seconds: dict[str, float] = {}
        for record in Runner(verify=False).run(large, pipeline):
            seconds[record.address] = seconds.get(record.address, 0.0) + record.seconds
        runs.append(seconds)
    return Measured(copies, nodes, {step: median(run[step] for run in runs) for step in runs[0]})


def side_by_side(graph: Graph, copies: int) -> Graph:
    """Return a graph with `copies` of `graph`: shared inputs, separate constants (with shared tensors), all outputs.

    It has no signature, so it cannot be called like a model.
    """
    large = Graph(graph.name, symbols=dict(graph.symbols))
    shared: dict[int, Value] = {}
    for graph_input in graph.inputs:
        type = None if graph_input.value is None else graph_input.value.type
        made = large.add_input(graph_input.name, type, graph_input.literal)
        if graph_input.value is not None and made.value is not None:
            shared[id(graph_input.value)] = made.value
    for number in range(copies):
        _append(graph, large, dict(shared), "" if number == 0 else f"copy{number}.")
    return large


def _append(graph: Graph, large: Graph, values: dict[int, Value], prefix: str) -> None:
    for constant in graph.constants.values():
        values[id(constant.value)] = large.add_constant(
            prefix + constant.name,
            constant._tensor,
            constant.kind,
            [prefix + name for name in constant.names],
            type=constant.type,
            persistent=constant.persistent,
            digest=constant.digest,
        ).value

    def moved(operand: Any) -> Any:
        if isinstance(operand, Value):
            return values[id(operand)]
        return tuple(map(moved, operand)) if isinstance(operand, tuple) else operand

    for node in graph.nodes:
        operands = {name: moved(operand) for name, operand in node.operands.items()}
        types = [result.type for result in node.results]
        made = large.insert(node.op, operands, node.attributes, types, name=node.name, location=node.location)
        made.annotations = dict(node.annotations)
        for old, result in zip(node.results, made.results, strict=True):
            values[id(old)] = result
    for output in graph.outputs:
        value = None if output.value is None else values[id(output.value)]
        target = None if output.target is None else values[id(output.target)]
        if not (prefix and output.kind == "input_mutation"):  # an input is written to once
            large.add_output(value, output.kind, output.literal, target)

"""Copies of whole graphs."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from graphpress.ir.collector import holding_collector
from graphpress.ir.graph import Constant, Graph, Input, Output, Value


@holding_collector
def clone(graph: Graph) -> Graph:
    """A graph with the same structure, names, locations and annotations; constant tensors are shared."""
    copy = Graph(graph.name, symbols=dict(graph.symbols))
    copy.signature = None if graph.signature is None else evolve(graph.signature)
    values: dict[int, Value] = {}
    for graph_input in graph.inputs:
        new_input = Input(copy.fresh_name(graph_input.name), literal=graph_input.literal)
        if graph_input.value is not None:
            new_input.value = values[id(graph_input.value)] = Value(graph_input.value.type, new_input)
        copy.inputs.append(new_input)
    for constant in graph.constants.values():
        new = Constant(
            constant.name,
            constant.kind,
            constant.names,
            constant.persistent,
            constant._tensor,
            constant.digest,
            constant.frozen,
        )
        new.value = values[id(constant.value)] = Value(constant.type, new)
        copy.constants[new.name] = new

    def moved(operand: Any) -> Any:
        if isinstance(operand, Value):
            return values[id(operand)]
        return tuple(map(moved, operand)) if isinstance(operand, tuple) else operand

    for node in graph.nodes:
        operands = {name: moved(operand) for name, operand in node.operands.items()}
        attributes = {name: _own(attribute) for name, attribute in node.attributes.items()}
        types = (result.type for result in node.results)
        made = copy.insert(node.op, operands, attributes, types, name=node.name, location=node.location)
        made.annotations = dict(node.annotations)
        for old, result in zip(node.results, made.results, strict=True):
            values[id(old)] = result
    for output in graph.outputs:
        _copy_output(output, copy, values)
    return copy


def _own(attribute: Any) -> Any:
    """`attribute` with the graphs in it copied."""
    if isinstance(attribute, Graph):
        return clone(attribute)
    if isinstance(attribute, tuple | list) and any(map(_is_structure, attribute)):
        return type(attribute)([_own(item) for item in attribute])
    if isinstance(attribute, dict):
        return {key: _own(item) for key, item in attribute.items()}
    return attribute


def _is_structure(item: Any) -> bool:
    return isinstance(item, Graph | tuple | list | dict)


def _copy_output(output: Output, copy: Graph, values: dict[int, Value]) -> None:
    value = None if output.value is None else values[id(output.value)]
    target = None if output.target is None else values[id(output.target)]
    copy.add_output(value, output.kind, output.literal, target)

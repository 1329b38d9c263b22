"""Capture a model as a graph that also runs at other batch sizes than the example's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphpress.ir.graph import Graph
from graphpress.ir.torch_import import ExportError, from_module

# Ops whose attributes spell out extents of the result.
_SHAPED = frozenset(
    {"view", "reshape", "expand", "_unsafe_view", "view_as", "zeros", "ones", "full", "arange", "repeat"}
)


def capture(model: nn.Module, example_inputs: Any, dynamic_shapes: Any = None) -> Graph:
    """`model` as a graph, captured in eval mode.

    Where no dynamic shapes are given and the graph spells out the batch of the example, it is captured again with a
    dynamic batch, if torch can.

    Raises:
        ExportError: when torch cannot capture the model.
    """
    arguments = flat_arguments(example_inputs)
    graph = from_module(model, arguments, dynamic_shapes=dynamic_shapes)
    if dynamic_shapes is not None or not _spells_out_batch(graph):
        return graph
    try:
        return from_module(model, _with_batch_of_two(arguments), dynamic_shapes=_dynamic_batch(arguments))
    except (ExportError, RuntimeError):
        return graph


def flat_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """Example inputs as the tuple of positional arguments."""
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, list | tuple):
        return tuple(example_inputs)
    raise ExportError(
        f"example_inputs is a {type(example_inputs).__name__}; accepted: a tuple of the model's positional arguments"
    )


def _spells_out_batch(graph: Graph) -> bool:
    return any(
        node.op.dialect == "aten"
        and node.op.short_name in _SHAPED
        and any(isinstance(a, tuple) and a and isinstance(a[0], int) and a[0] > 0 for a in node.attributes.values())
        for node in graph.nodes
    )


def _dynamic_batch(arguments: tuple[Any, ...]) -> Any:
    def shape(argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return {0: torch.export.Dim.AUTO} if argument.ndim else None
        if isinstance(argument, list | tuple):
            return type(argument)([shape(item) for item in argument])
        return {key: shape(item) for key, item in argument.items()} if isinstance(argument, dict) else None

    return tuple(shape(argument) for argument in arguments)


def _with_batch_of_two(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """torch.export takes an extent of 1 for a constant, so a batch of one is doubled."""

    def doubled(argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return torch.cat([argument, argument]) if argument.ndim and argument.shape[0] == 1 else argument
        if isinstance(argument, list | tuple):
            return type(argument)([doubled(item) for item in argument])
        return {key: doubled(item) for key, item in argument.items()} if isinstance(argument, dict) else argument

    return tuple(doubled(argument) for argument in arguments)

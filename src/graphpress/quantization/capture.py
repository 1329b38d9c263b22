"""Capture a model as a graph that also runs at other batch sizes than the example's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphpress.ir.generalize import NotProven, prove
from graphpress.ir.graph import Graph, Node
from graphpress.ir.torch_import import ExportError, from_module

# Ops whose attributes spell out extents of the result.
_SHAPED = frozenset(
    {"view", "reshape", "expand", "_unsafe_view", "view_as", "zeros", "ones", "full", "arange", "repeat"}
)
# Ops with a number that may have been computed from one.
_NUMBERED = frozenset(
    {
        "add",
        "sub",
        "mul",
        "div",
        "rsub",
        "pow",
        "remainder",
        "floor_divide",
        "arange",
        "linspace",
        "eye",
        "full",
        "full_like",
        "slice",
        "narrow",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "repeat_interleave",
    }
)


def capture(model: nn.Module, example_inputs: Any, dynamic_shapes: Any = None) -> Graph:
    """`model` as a graph, captured in eval mode.

    Where no dynamic shapes are given and the graph spells out numbers that may be the batch of the example, these
    become symbolic: by proof (`graphpress.ir.generalize`), or else by another capture with a dynamic batch, if torch
    can.

    Raises:
        ExportError: when torch cannot capture the model.
    """
    arguments = flat_arguments(example_inputs)
    graph = from_module(model, arguments, dynamic_shapes=dynamic_shapes)
    spells_out_batch = any(map(_spells_out_batch, graph.nodes))
    if dynamic_shapes is not None or not (spells_out_batch or any(map(_has_numbers, graph.nodes))):
        return graph
    try:
        found = prove(graph, model, arguments)
    except NotProven as reason:
        if not spells_out_batch and not reason.asked:
            return graph
        return _captured_dynamically(model, arguments) or graph
    if spells_out_batch or found.is_needed:
        found.apply()
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


def _spells_out_batch(node: Node) -> bool:
    return (
        node.op.dialect == "aten"
        and node.op.short_name in _SHAPED
        and any(isinstance(a, tuple) and a and isinstance(a[0], int) and a[0] > 0 for a in node.attributes.values())
    )


def _has_numbers(node: Node) -> bool:
    return (
        node.op.dialect == "aten"
        and node.op.short_name in _NUMBERED
        and any(type(a) in (int, float) and a > 0 for name, a in node.attributes.items() if not name.startswith("dim"))
    )


def _captured_dynamically(model: nn.Module, arguments: tuple[Any, ...]) -> Graph | None:
    try:
        return from_module(model, _with_batch_of_two(arguments), dynamic_shapes=_dynamic_batch(arguments))
    except (ExportError, RuntimeError):
        return None


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

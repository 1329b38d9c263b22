"""`torch.export.ExportedProgram`s from graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.export import Dim, ExportedProgram

from graphpress.ir.calling import load_spec
from graphpress.ir.dims import SymDim
from graphpress.ir.graph import Graph, Input
from graphpress.ir.to_graph_module import to_graph_module
from graphpress.ir.torch_import import ExportError, export_module
from graphpress.ir.types import ScalarType, TensorType


def to_exported_program(graph: Graph, example_inputs: Sequence[Any] | None = None) -> ExportedProgram:
    """Emit `graph` and export it; dynamic shapes, mutations and tied weights survive.

    Args:
        graph: what to export; it is not changed. The program shares its tensors.
        example_inputs: flat user inputs to trace with; by default zeros of the inputs' types, symbols at their example
            values.
    """
    module = to_graph_module(graph)
    flat = list(example_inputs) if example_inputs is not None else [_example(i, graph) for i in graph.inputs]
    dims = [_dynamic_dims(i, graph) for i in graph.inputs]
    if graph.signature is None:
        args, kwargs, shapes = tuple(flat), {}, tuple(dims)
    else:
        spec = load_spec(graph.signature.in_spec)
        args, kwargs = pytree.tree_unflatten(flat, spec)
        positional, named = pytree.tree_unflatten(dims, spec)
        names = graph.signature.argument_names
        shapes = dict(zip(names, positional, strict=False)) | named
    dynamic = shapes if any(dim is not None for dim in dims) else None
    return export_module(module, tuple(args), kwargs, dynamic)


def _example(graph_input: Input, graph: Graph) -> Any:
    if graph_input.value is None:
        return graph_input.literal
    hints = {name: symbol.hint for name, symbol in graph.symbols.items()}
    type = graph_input.value.type
    if isinstance(type, TensorType):
        at = type.at(hints)
        return torch.zeros(at.shape, dtype=type.dtype.torch_dtype)  # type: ignore[arg-type]
    if isinstance(type, ScalarType):
        if isinstance(type.value, SymDim):
            return type.value.evaluate(hints)
        return {"int": int, "float": float, "bool": bool}[type.kind](type.value or 0)
    raise ExportError(f"input {graph_input.name!r} is {type}: give example inputs to export with")


def _dynamic_dims(graph_input: Input, graph: Graph) -> Any:
    """What `torch.export` calls the dynamic shape of one input."""
    if graph_input.value is None:
        return None
    type = graph_input.value.type
    if isinstance(type, ScalarType):
        return Dim.DYNAMIC if isinstance(type.value, SymDim) else None
    if not isinstance(type, TensorType) or type.is_static:
        return None
    return {axis: _dim(extent, graph) for axis, extent in enumerate(type.shape) if isinstance(extent, SymDim)}


def _dim(extent: SymDim, graph: Graph) -> Any:
    symbol = graph.symbols.get(extent.expression)
    if symbol is None:  # an expression over symbols: torch finds the relation again
        return Dim.AUTO
    return Dim.DYNAMIC(min=symbol.minimum, max=symbol.maximum)

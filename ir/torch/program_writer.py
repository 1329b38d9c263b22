"""`torch.export.ExportedProgram`s from graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.export import Dim, ExportedProgram

from graphpress.ir.graph import Graph, Input
from graphpress.ir.text.pytrees import load_spec
from graphpress.ir.torch.capture import ExportError, export_module
from graphpress.ir.torch.graph_module_writer import to_graph_module
from graphpress.ir.types import ScalarType, SymDim, TensorType


def to_exported_program(graph: Graph, example_inputs: Sequence[Any] | None = None) -> ExportedProgram:
    """Emit `graph` and export it; dynamic shapes, mutations and tied weights survive.

    Args:
        graph: what to export; it is not changed. The program shares its tensors.
        example_inputs: flat user inputs to trace with; by default zeros of the inputs' types, symbols at their example
            values.
    """
    module = to_graph_module(graph)
    flat = list(example_inputs) if example_inputs is not None else [_example(i, graph) for i in graph.inputs]
    dynamic_shapes = _DynamicShapes(graph)
    dims = [dynamic_shapes.of(i) for i in graph.inputs]
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


class _DynamicShapes:
    """What `torch.export` calls the dynamic shape of each input.

    A symbol that an extent such as ``2*s0`` is made of becomes a named `Dim`, since only those can be derived from;
    torch invents a symbol of its own for any other.
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        self._named: dict[str, Any] = {}
        for extent in filter(None, map(_extents, graph.inputs)):
            for dim in extent.values():
                found = _linear(dim)
                if dim.expression not in graph.symbols and found is not None:
                    symbol = graph.symbols[found[1]]
                    self._named[found[1]] = Dim(found[1], min=symbol.minimum, max=symbol.maximum)

    def of(self, graph_input: Input) -> Any:
        """The dynamic shape of one flat input."""
        if graph_input.value is not None and isinstance(graph_input.value.type, ScalarType):
            return Dim.DYNAMIC if isinstance(graph_input.value.type.value, SymDim) else None
        extents = _extents(graph_input)
        return None if extents is None else {axis: self._dim(extent) for axis, extent in extents.items()}

    def _dim(self, extent: SymDim) -> Any:
        found = _linear(extent)
        if found is not None and found[1] in self._named:
            factor, name, offset = found
            dim = self._named[name]
            dim = dim if factor == 1 else factor * dim
            return dim if offset == 0 else dim + offset
        symbol = self._graph.symbols.get(extent.expression)
        return Dim.AUTO if symbol is None else Dim.DYNAMIC(min=symbol.minimum, max=symbol.maximum)


def _extents(graph_input: Input) -> dict[int, SymDim] | None:
    """The symbolic extents of an input by axis; None when there are none."""
    type = graph_input.value.type if graph_input.value is not None else None
    if not isinstance(type, TensorType) or type.is_static:
        return None
    return {axis: extent for axis, extent in enumerate(type.shape) if isinstance(extent, SymDim)}


def _linear(extent: SymDim) -> tuple[int, str, int] | None:
    """`(factor, symbol, offset)` when the extent is linear in one symbol; `Dim`s can say no more."""
    if len(extent.symbols) != 1:
        return None
    name = extent.symbols[0]
    offset = extent.evaluate({name: 0})
    factor = extent.evaluate({name: 1}) - offset
    straight = all(extent.evaluate({name: n}) == factor * n + offset for n in (2, 7, 1000))
    return (factor, name, offset) if straight and factor > 0 else None

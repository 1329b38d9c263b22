"""Export of graphs as `torch.export.ExportedProgram`s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.export import Dim, ExportedProgram

from graphpress.ir.graph import Graph, Input
from graphpress.ir.text.pytrees import load_spec
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.capture import export_module
from graphpress.ir.torch.export_errors import ExportError
from graphpress.ir.torch.graph_module_writer import to_graph_module
from graphpress.ir.types import ScalarType, SymDim, TensorType


def to_exported_program(graph: Graph, example_inputs: Sequence[Any] | None = None) -> ExportedProgram:
    """Export `graph`, with dynamic shapes, mutations and tied weights preserved.

    Args:
        graph: the graph to export; it is not changed. The program shares its tensors.
        example_inputs: flat user inputs for the trace; by default zeros of the inputs' types, with symbols at their
            example values.

    Raises:
        ExportError: if torch.export fails, or an input needs an example.
    """
    module = to_graph_module(graph)
    arguments = example_arguments(graph, example_inputs)
    return export_module(module, arguments.positional, arguments.named, dynamic_shapes_of(graph))


def dynamic_shapes_of(graph: Graph) -> Any:
    """Return the symbols of the inputs of `graph` as `dynamic_shapes` for `torch.export.export`, or None."""
    dynamic_shapes = _DynamicShapes(graph)
    dims = [dynamic_shapes.of(graph_input) for graph_input in graph.inputs]
    if all(dim is None for dim in dims):
        return None
    if graph.signature is None:
        return tuple(dims)
    positional, named = pytree.tree_unflatten(dims, load_spec(graph.signature.in_spec))
    return dict(zip(graph.signature.argument_names, positional, strict=False)) | named


def example_arguments(graph: Graph, flat: Sequence[Any] | None = None) -> Arguments:
    """Return arguments for the signature of `graph` from flat inputs, by default zeros of the inputs' types.

    Raises:
        ExportError: if an input that is not given is no tensor or number.
    """
    leaves = [_example(graph_input, graph) for graph_input in graph.inputs] if flat is None else list(flat)
    if graph.signature is None:
        return Arguments(tuple(leaves))
    args, kwargs = pytree.tree_unflatten(leaves, load_spec(graph.signature.in_spec))
    return Arguments(tuple(args), kwargs)


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
    raise ExportError(f"input {graph_input.name!r} is {type}: pass example inputs for the export")


class _DynamicShapes:
    """The `dynamic_shapes` argument of `torch.export` for each input.

    A symbol in a linear expression such as ``2*s0`` becomes a named `Dim`, since derived dims need one; any other
    symbol is left to torch (`Dim.AUTO`).
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        self._named: dict[str, Any] = {}
        for dims in filter(None, map(_symbolic_dims, graph.inputs)):
            for dim in dims.values():
                found = _linear(dim)
                if dim.expression not in graph.symbols and found is not None:
                    symbol = graph.symbols[found[1]]
                    self._named[found[1]] = Dim(found[1], min=symbol.minimum, max=symbol.maximum)

    def of(self, graph_input: Input) -> Any:
        """Return the dynamic shape of one flat input."""
        if graph_input.value is not None and isinstance(graph_input.value.type, ScalarType):
            return Dim.DYNAMIC if isinstance(graph_input.value.type.value, SymDim) else None
        dims = _symbolic_dims(graph_input)
        return None if dims is None else {axis: self._dim(dim) for axis, dim in dims.items()}

    def _dim(self, dim: SymDim) -> Any:
        found = _linear(dim)
        if found is not None and found[1] in self._named:
            factor, name, offset = found
            derived = self._named[name]
            derived = derived if factor == 1 else factor * derived
            return derived if offset == 0 else derived + offset
        symbol = self._graph.symbols.get(dim.expression)
        return Dim.AUTO if symbol is None else Dim.DYNAMIC(min=symbol.minimum, max=symbol.maximum)


def _symbolic_dims(graph_input: Input) -> dict[int, SymDim] | None:
    """Return the symbolic dims of an input by axis, or None if there are none."""
    type = graph_input.value.type if graph_input.value is not None else None
    if not isinstance(type, TensorType) or type.is_static:
        return None
    return {axis: dim for axis, dim in enumerate(type.shape) if isinstance(dim, SymDim)}


def _linear(dim: SymDim) -> tuple[int, str, int] | None:
    """Return `(factor, symbol, offset)` if the dim is linear in one symbol, which is all that `Dim` can express."""
    if len(dim.symbols) != 1:
        return None
    name = dim.symbols[0]
    offset = dim.evaluate({name: 0})
    factor = dim.evaluate({name: 1}) - offset
    straight = all(dim.evaluate({name: n}) == factor * n + offset for n in (2, 7, 1000))
    return (factor, name, offset) if straight and factor > 0 else None

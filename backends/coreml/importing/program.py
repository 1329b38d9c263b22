"""From a package, or a MIL program in memory, to a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from graphpress.backends.coreml.importing import arithmetic, compressed, layers, shapes
from graphpress.backends.coreml.importing.reader import MilReader, translates
from graphpress.backends.coreml.package import load_program
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reading import understanding
from graphpress.ir.graph import Graph
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import verify

__all__ = ["from_mil", "from_package"]

_TABLES = (arithmetic, compressed, layers, shapes)  # importing them fills `translates`


def from_package(
    path: str | PathLike[str], function: str = "main", *, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """The graph of a saved package: `aten` ops, and `quant` ops for its compressed constants.

    An op that has no translation becomes an opaque ``mil.*`` node, which can be printed and compared, not run.

    Args:
        path: of the package.
        function: of its program.
        shapes: by the names of inputs, where the package leaves extents free; a free extent is 1 by default.

    Raises:
        AssetError: when there is no package, it is damaged, or it has no such function.
    """
    program = load_program(path)
    if function not in program.functions:
        raise AssetError(f"{path} has no function {function!r}, only {list(program.functions)}")
    with understanding(path):
        return from_mil(program, function, name=Path(path).stem, shapes=shapes)


def from_mil(
    program: Any,
    function: str = "main",
    name: str = "main",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Graph:
    """The graph of a function of a coremltools program; see `from_package`."""
    body = program.functions[function]
    graph = Graph(name)
    reader = MilReader(graph)
    for input_name, var in body.inputs.items():
        type = reader.type(var)
        if shapes is not None and input_name in shapes:
            type = TensorType(type.dtype, shapes[input_name])
        made = graph.add_input(input_name, type)
        assert made.value is not None
        reader.values[id(var)] = made.value
    for op in body.operations:
        if op.op_type == "const":
            continue
        translate = translates.get(op.op_type)
        results = translate(reader, op) if translate is not None else reader.opaque(op)
        results = results if isinstance(results, tuple) else (results,)
        for var, value in zip(op.outputs, results, strict=False):
            reader.values[id(var)] = value
            if value.node is not None and len(results) == 1:
                reader.rewriter.rename(value.node, var.name)
    for var in body.outputs:
        graph.add_output(reader.value(var))
    reader.erase_unused()
    verify(graph)
    return graph

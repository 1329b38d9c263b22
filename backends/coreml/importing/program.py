"""Import of a package or an in-memory MIL program as a graph, and the features that a graph cannot represent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from graphpress.backends.coreml.importing import arithmetic, compressed, layers, shapes
from graphpress.backends.coreml.importing.reader import MilReader, is_state, translates
from graphpress.backends.coreml.package import load_program
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reader import program_errors_named
from graphpress.ir.graph import Graph, Value
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import verify


def unsupported_features(path: str | PathLike[str]) -> list[str]:
    """Describe the features that are lost when the package at `path` is imported and converted again.

    Raises:
        AssetError: if there is no package, or it is damaged.
    """
    program = load_program(path)
    found = [f"the function {name}" for name in program.functions if name != "main"]
    for function in program.functions.values():
        for name, var in function.inputs.items():
            if is_state(var):
                found.append(f"the state {name}")
            elif not all(isinstance(dim, int | np.integer) for dim in var.shape):
                found.append(f"the dynamic dims of {name}")
    return found


__all__ = ["from_mil", "from_package"]

_TABLES = (arithmetic, compressed, layers, shapes)  # importing them fills `translates`


def from_package(
    path: str | PathLike[str], function: str = "main", *, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """Import a saved package as a graph of `aten` ops, and `quant` ops for compressed constants.

    States become inputs after the others, and what is written to them outputs after the others. An op without a
    translation becomes an opaque ``mil.*`` node, which can be printed and compared but not
    executed.

    Args:
        path: the package.
        function: the function of its program.
        shapes: shapes by input name, for dynamic dims, which are 1 by default.

    Raises:
        AssetError: if there is no package, it is damaged, or it has no such function.
    """
    program = load_program(path)
    if function not in program.functions:
        raise AssetError(f"{path} has no function {function!r}, only {list(program.functions)}")
    with program_errors_named(path):
        return from_mil(program, function, name=Path(path).stem, shapes=shapes)


def from_mil(
    program: Any,
    function: str = "main",
    name: str = "main",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Graph:
    """Import a function of a coremltools program; see `from_package`."""
    body = program.functions[function]
    graph = Graph(name)
    reader = MilReader(graph)
    for input_name, var in sorted(body.inputs.items(), key=lambda each: is_state(each[1])):
        type = reader.type(var)
        if shapes is not None and input_name in shapes:
            type = TensorType(type.dtype, shapes[input_name])
        made = graph.add_input(input_name, type)
        assert made.value is not None
        (reader.states if is_state(var) else reader.values)[id(var)] = made.value
    before = dict(reader.states)
    _operations(body, reader)
    for var in body.outputs:
        graph.add_output(reader.value(var))
    for key, value in reader.states.items():
        if value is not before[key]:
            graph.add_output(value)
    reader.erase_unused()
    verify(graph)
    return graph


def sketch(program: Any, function: str) -> tuple[Graph, dict[Value, str]]:
    """Return a graph of a function for analysis (see `Reader.is_sketch`), and the program name of each constant."""
    body = program.functions[function]
    reader = MilReader(Graph(function), is_sketch=True)
    for name, var in body.inputs.items():
        reader.enter(name, var)
    _operations(body, reader)
    for var in body.outputs:
        reader.graph.add_output(reader.value(var))
    return reader.graph, {value: name for name, value in reader.constants.items() if value.use_count}


def _operations(body: Any, reader: MilReader) -> None:
    """Translate the ops of a block."""
    for op in body.operations:
        if op.op_type == "const":
            continue
        results = _translated(op, reader)
        for var, value in zip(op.outputs, results, strict=False):
            reader.values[id(var)] = value
            if value.node is not None and len(results) == 1:
                reader.rewriter.rename(value.node, var.name)
        for block in op.blocks if reader.is_sketch else ():
            for var in block.inputs:
                reader.enter(var.name, var)
            _operations(block, reader)


def _translated(op: Any, reader: MilReader) -> tuple[Value, ...]:
    translate = translates.get(op.op_type)
    try:
        reader.declared = tuple(reader.type(out) for out in op.outputs) if reader.is_sketch else ()
        found = translate(reader, op) if translate is not None else reader.opaque(op)
    except Exception:
        if not reader.is_sketch:
            raise
        found = reader.unread(op)
    return found if isinstance(found, tuple) else (found,)

"""Import of a saved asset as a graph, and the features that a graph cannot represent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from graphpress.backends.coreai.asset import open_program, read
from graphpress.backends.coreai.importing import compressed, elementwise, layers, shapes
from graphpress.backends.coreai.importing.reader import (
    MOST_INVOKED,
    AssetReader,
    Read,
    blobs,
    short_name,
    tensor_type,
    translates,
)
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reader import program_errors_named
from graphpress.ir.graph import Graph, Value
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import verify


def unsupported_features(path: str | PathLike[str]) -> list[str]:
    """Describe the features that are lost when the asset at `path` is imported and converted again.

    Raises:
        AssetError: if there is no asset, or it is damaged.
    """
    info = read(path)
    found = [f"the function {each.name}" for each in info.functions if each.name != "main"]
    for function in info.functions:
        found += [f"the dynamic dims of {each.name}" for each in function.inputs if None in each.shape]
        found += [f"the state {each.name}" for each in function.states]
    return found


__all__ = ["from_asset"]

_TABLES = (compressed, elementwise, layers, shapes)  # importing them fills `translates`


def from_asset(
    path: str | PathLike[str], function: str = "main", *, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """Import a saved asset as a graph of `aten` ops, and `quant` ops for compressed values.

    Composite ops are inlined. States become inputs after the others, and writes to them outputs after the others. An op
    without a translation becomes an opaque ``aimodel.*`` node, which can be printed and compared but not executed.

    Args:
        path: the asset.
        function: the function of its program.
        shapes: shapes by input name, for dynamic dims, which are 1 by default.

    Raises:
        AssetError: if there is no asset, it is damaged, or it has no such function.
        MissingDependencyError: if `coreai-core` is not installed.
    """
    # The program owns the context, and must outlive the traversed operations.
    program = open_program(path)
    with program_errors_named(path):
        return from_program(program, function, Path(path).stem, shapes=shapes)


def from_program(
    program: Any, function: str = "main", name: str = "main", *, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """Import a function of an `AIProgram`, from the converter or an asset; see `from_asset`."""
    graphs, data = functions(program), blobs(program._module._mlir_module.operation)
    reader = AssetReader(Graph(name), blobs=data, most_operations=_most_operations(graphs))
    _read(_public(function, graphs, name), graphs, reader, shapes or {})
    verify(reader.graph)
    return reader.graph


def sketch(program: Any, function: str) -> tuple[Graph, dict[Value, Any]]:
    """Return a graph of a function for analysis (see `Reader.is_sketch`), and the program value of each constant."""
    graphs, data = functions(program), blobs(program._module._mlir_module.operation)
    reader = AssetReader(Graph(function), is_sketch=True, blobs=data, most_operations=_most_operations(graphs))
    with program_errors_named("memory"):
        _read(graphs[function], graphs, reader, {})
    return reader.graph, {value: origin for value, origin in reader.origins() if value.use_count}


def _most_operations(graphs: Mapping[str, Any]) -> int:
    return MOST_INVOKED * sum(1 for graph in graphs.values() for _ in graph.regions[0].blocks[0].operations)


def functions(program: Any) -> dict[str, Any]:
    """Return the functions of a program by name, including private bodies of composite operators."""
    module = program._module._mlir_module.operation
    return {each.attributes["sym_name"].value: each for each in module.regions[0].blocks[0].operations}


def public(graphs: Mapping[str, Any]) -> list[str]:
    """Return the names of the functions that are not bodies of composite operators."""
    return [name for name, each in graphs.items() if "priv" not in each.attributes]


def _public(function: str, graphs: Mapping[str, Any], where: str) -> Any:
    if function not in public(graphs):
        raise AssetError(f"{where} has no function {function!r}, only {public(graphs)}")
    return graphs[function]


def _read(function: Any, graphs: Mapping[str, Any], reader: AssetReader, shapes: Mapping[str, Sequence[int]]) -> None:
    block = function.regions[0].blocks[0]
    arguments = list(zip(block.arguments, function.attributes["arg_attrs"], strict=True))
    arguments.sort(key=lambda each: hasattr(each[0].type, "inner_type"))
    for at, (argument, attributes) in enumerate(arguments):
        name = attributes["coreai.name"].value if "coreai.name" in attributes else f"input_{at}"
        inner = getattr(argument.type, "inner_type", None)
        type = tensor_type(argument.type if inner is None else inner)
        made = reader.graph.add_input(name, TensorType(type.dtype, shapes.get(name, type.shape)))
        assert made.value is not None
        if inner is None:
            reader.known[argument] = made.value
        else:
            reader.states[argument] = made.value
    written = dict(reader.states)
    results = _operations(block, graphs, reader)
    for value, attributes in zip(results, function.attributes["res_attrs"], strict=False):
        if value.node is not None and "coreai.name" in attributes and len(value.node.results) == 1:
            reader.rewriter.rename(value.node, attributes["coreai.name"].value)
        reader.graph.add_output(value)
    for state, before in written.items():
        if reader.states[state] is not before:
            reader.graph.add_output(reader.states[state])
    reader.erase_unused()


def _operations(block: Any, graphs: Mapping[str, Any], reader: AssetReader) -> list[Value]:
    """Translate the ops of a block, and return its results."""
    for op in block.operations:
        reader.count_operation()
        name = short_name(op)
        if name == "constant":
            if op.results[0] not in reader.known:  # the constants of a body that is invoked twice exist already
                reader.known[op.results[0]] = reader.stored_constant(op.attributes["value"])
        elif name == "output":
            return [reader.value(operand) for operand in op.operands if operand in reader.known]
        elif name == "invoke":
            inner = graphs[_symbol(op.attributes["callee"])].regions[0].blocks[0]
            reader.known.update(
                {to: reader.known[source] for to, source in zip(inner.arguments, op.operands, strict=True)}
            )
            reader.known.update(zip(op.results, _operations(inner, graphs, reader), strict=True))
        elif name == "read_handle":
            reader.known[op.results[0]] = reader.states[op.operands[0]]
        elif name == "write_handle":
            reader.states[op.operands[0]] = reader.value(op.operands[1])
        elif name not in ("create_token", "join_token"):
            _translate(op, name, reader)
            if reader.is_sketch:
                _sketch_bodies(op, graphs, reader)
    return []


def _sketch_bodies(op: Any, graphs: Mapping[str, Any], reader: AssetReader) -> None:
    """Import the bodies of control flow, with their arguments as inputs."""
    for region in op.regions:
        for block in region.blocks:
            for argument in block.arguments:
                made = reader.graph.add_input(f"body_{len(reader.graph.inputs)}", tensor_type(argument.type)).value
                assert made is not None
                reader.known[argument] = made
            _operations(block, graphs, reader)


def _symbol(attribute: Any) -> str:
    """Return the name in ``@name``, which may be part of an expression."""
    found = re.search(r'@"?([^\s">]+)', str(attribute))
    if found is None:
        raise AssetError(f"an op invokes {attribute}, which names no function")
    return found[1]


def _translate(op: Any, name: str, reader: AssetReader) -> None:
    translate = translates.get(name)
    tensors = [result for result in op.results if str(result.type).startswith("tensor<")]
    reader.declared = tuple(tensor_type(result.type) for result in tensors) if reader.is_sketch else ()
    found: Read | tuple[Read, ...] | None = None
    try:
        found = translate(reader, op) if translate is not None else None
    except Exception:
        if not reader.is_sketch:
            raise
    if found is None:
        found = reader.opaque(op)
    found = found if isinstance(found, tuple) else (found,)
    reader.known.update(zip(tensors, found, strict=True))

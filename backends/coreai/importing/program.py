"""From a saved asset to a graph, and what of an asset a graph does not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from graphpress.backends.coreai.asset import open_asset, read
from graphpress.backends.coreai.importing import compressed, elementwise, layers, shapes
from graphpress.backends.coreai.importing.reader import (
    AssetReader,
    Read,
    blobs,
    held,
    short_name,
    tensor_type,
    translates,
)
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reader import understanding
from graphpress.ir.graph import Graph, Value
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import verify


def losses(path: str | PathLike[str]) -> list[str]:
    """What is lost when the asset at `path` is read and converted again, in words; empty when nothing is.

    Raises:
        AssetError: when there is no asset, or it is damaged.
    """
    info = read(path)
    found = [f"the function {each.name}" for each in info.functions if each.name != "main"]
    for function in info.functions:
        found += [f"the free extents of {each.name}" for each in function.inputs if None in each.shape]
        found += [f"the state {each.name}" for each in function.states]
    return found


__all__ = ["from_asset"]

_TABLES = (compressed, elementwise, layers, shapes)  # importing them fills `translates`


def from_asset(
    path: str | PathLike[str], function: str = "main", *, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """The graph of a saved asset: `aten` ops, and `quant` ops for what is compressed; composite ops are spelled out.

    States become inputs after the others, and what is written to them outputs after the others. An op that has no
    translation becomes an opaque ``aimodel.*`` node, which can be printed and compared, not run.

    Args:
        path: of the asset.
        function: of its program.
        shapes: by the names of inputs, where the asset leaves extents free; a free extent is 1 by default.

    Raises:
        AssetError: when there is no asset, it is damaged, or it has no such function.
        MissingDependencyError: when `coreai-core` is not installed.
    """
    # The program owns the context: it must live as long as the operations that are walked.
    program = open_asset(path).program
    with understanding(path):
        return from_program(program, function, Path(path).stem, shapes=shapes)


def from_program(
    program: Any, function: str = "main", name: str = "main", *, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """The graph of a function of an `AIProgram`, of the converter or of an asset; see `from_asset`."""
    graphs, data = functions(program), blobs(program._module._mlir_module.operation)
    reader = AssetReader(Graph(name), blobs=data)
    _read(_public(function, graphs, name), graphs, reader, shapes or {})
    verify(reader.graph)
    return reader.graph


def sketch(program: Any, function: str) -> tuple[Graph, dict[Value, Any]]:
    """A graph of a function to look at only (see `Reader.is_sketch`), and the value in the program that each of its
    constants is.
    """
    graphs, data = functions(program), blobs(program._module._mlir_module.operation)
    reader = AssetReader(Graph(function), is_sketch=True, blobs=data)
    with understanding("memory"):
        _read(graphs[function], graphs, reader, {})
    return reader.graph, {value: origin for value, origin in reader.origins() if value.use_count}


def functions(program: Any) -> dict[str, Any]:
    """The functions of a program by name, bodies of composite operators included, which are private."""
    module = program._module._mlir_module.operation
    return {each.attributes["sym_name"].value: each for each in module.regions[0].blocks[0].operations}


def public(graphs: Mapping[str, Any]) -> list[str]:
    """The names of those that are no bodies of composite operators."""
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
    """Translate the ops of a block; what it returns."""
    for op in block.operations:
        name = short_name(op)
        if name == "constant":
            if op.results[0] not in reader.known:  # a body that is invoked twice has its constants once
                reader.known[op.results[0]] = held(op.attributes["value"], reader.blobs)
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
    """Read the bodies of control flow, whose arguments become inputs."""
    for region in op.regions:
        for block in region.blocks:
            for argument in block.arguments:
                made = reader.graph.add_input(f"body_{len(reader.graph.inputs)}", tensor_type(argument.type)).value
                assert made is not None
                reader.known[argument] = made
            _operations(block, graphs, reader)


def _symbol(attribute: Any) -> str:
    """The name in ``@name``, which may stand in an expression."""
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

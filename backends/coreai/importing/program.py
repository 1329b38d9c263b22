"""From a saved asset to a graph."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from graphpress.backends.coreai.asset import open_asset
from graphpress.backends.coreai.importing import compressed, elementwise, layers, shapes
from graphpress.backends.coreai.importing.constants import blobs, held
from graphpress.backends.coreai.importing.reader import AssetReader, Read, short_name, tensor_type, translates
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reading import understanding
from graphpress.ir.graph import Graph, Value
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import verify

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
    # The module's wrapper owns the context: it must live as long as the operations that are walked.
    program = open_asset(path).program
    with understanding(path):
        module = program._module._mlir_module.operation
        graphs = {each.attributes["sym_name"].value: each for each in module.regions[0].blocks[0].operations}
        public = [name for name, each in graphs.items() if "priv" not in each.attributes]
        if function not in public:
            raise AssetError(f"{path} has no function {function!r}, only {public}")
        graph = Graph(Path(path).stem)
        _read(graphs[function], graphs, AssetReader(graph, blobs(module)), shapes or {})
        verify(graph)
    return graph


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
    return []


def _symbol(attribute: Any) -> str:
    """The name in ``@name``, which may stand in an expression."""
    found = re.search(r'@"?([^\s">]+)', str(attribute))
    if found is None:
        raise AssetError(f"an op invokes {attribute}, which names no function")
    return found[1]


def _translate(op: Any, name: str, reader: AssetReader) -> None:
    translate = translates.get(name)
    found: Read | tuple[Read, ...] | None = translate(reader, op) if translate is not None else None
    if found is None:
        found = reader.opaque(op)
    found = found if isinstance(found, tuple) else (found,)
    tensors = [result for result in op.results if str(result.type).startswith("tensor<")]
    reader.known.update(zip(tensors, found, strict=True))

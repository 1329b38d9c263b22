"""Printer of the text form, and one-line renderings of nodes for messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from graphpress.ir.annotations import annotation_name
from graphpress.ir.graph import Constant, Graph, Input, Node, Output, Value, bodies
from graphpress.ir.ops import OpDef
from graphpress.ir.tensors import tensor_digest
from graphpress.ir.text.attributes import TextFormError, format_value
from graphpress.ir.text.locations import LocationWriter
from graphpress.ir.text.tokens import name_text, quote
from graphpress.ir.text.types import format_type

MOST_NESTED = 300
"""Levels of nested graphs that the text form holds, so that its size stays in proportion to that of the graph."""


def print_graph(graph: Graph, *, locations: bool = True) -> str:
    """Return the text form of `graph`, which `parse_graph` reads back to an equal graph.

    Args:
        graph: any graph.
        locations: whether to print source locations; without them the text does not change when the model's source
            moves.

    Objects without a text form, and graphs below `MOST_NESTED` others, are printed as ``object("...")`` for human
    readers; such a text cannot be parsed.
    """
    return _print(graph, LocationWriter() if locations else None, strict=False)


def exact_text(graph: Graph) -> str:
    """Return the text form for storage, which is always parseable.

    Raises:
        TextFormError: if a node or the signature holds an object without a text form, or graphs nest deeper than
            `MOST_NESTED`.
    """
    return _print(graph, LocationWriter(), strict=True)


def _print(graph: Graph, locations: LocationWriter | None, strict: bool) -> str:
    text = _GraphPrinter(locations, strict).graph(graph, "")
    return f"{text}\n{locations.table() if locations else ''}"


def constant_digest(constant: Constant) -> str | None:
    """Return the hash of a constant's data, or the hash in its text if it has no data, or None."""
    return tensor_digest(constant.tensor) if constant.has_data else constant.digest


class _GraphPrinter:
    def __init__(self, locations: LocationWriter | None, strict: bool):
        self._locations = locations
        self._strict = strict
        self._indent = ""
        self._bodies: dict[int, str] = {}  # texts of the nested graphs of the node that is printed next, by id

    def graph(self, graph: Graph, indent: str) -> str:
        """Print `graph` and its nested graphs, without recursion: graphs may nest deeper than Python's stack."""
        outer, self._indent = self._indent, indent + "  "
        open_graphs = [(graph, self._parts(graph), [f"graph @{name_text(graph.name)} {{"])]
        while True:
            current, parts, lines = open_graphs[-1]
            part = next(parts, None)
            if isinstance(part, Graph) and len(open_graphs) > MOST_NESTED:
                self._bodies[id(part)] = self._too_deep(part)
            elif isinstance(part, Graph):
                self._indent += "  "
                open_graphs.append((part, self._parts(part), [f"graph @{name_text(part.name)} {{"]))
            elif part is not None:
                lines.append(f"{self._indent}{part}")
            else:
                self._indent = self._indent[:-2]
                lines.append(f"{self._indent}}}")
                open_graphs.pop()
                if not open_graphs:
                    self._indent = outer
                    return "\n".join(lines)
                self._bodies[id(current)] = "\n".join(lines)

    def _parts(self, graph: Graph) -> Iterator[str | Graph]:
        """Yield the lines of `graph`, and before the line of a node its nested graphs, which must be printed first."""
        yield from self._header(graph)
        for node in graph.nodes:
            yield from bodies(node)
            yield self._node(node)
            if self._bodies:
                for body in bodies(node):
                    self._bodies.pop(id(body), None)
        yield from self._outputs(graph.outputs)
        if graph.signature is not None:
            fields = attrs.asdict(graph.signature, recurse=False)
            values = ", ".join(f"{name}={self._value(value)}" for name, value in fields.items())
            yield f"signature({values})"

    def _header(self, graph: Graph) -> list[str]:
        lines = []
        for name, symbol in graph.symbols.items():
            top = "inf" if symbol.maximum is None else symbol.maximum
            lines.append(f"symbol {name_text(name)}: [{symbol.minimum}, {top}] hint {symbol.hint}")
        lines += map(self._input, graph.inputs)
        lines += map(self._constant, graph.constants.values())
        return lines

    def _input(self, graph_input: Input) -> str:
        line = f"input %{name_text(graph_input.name)}"
        if graph_input.value is None:
            return f"{line} = {self._value(graph_input.literal)}"
        return f"{line}: {format_type(graph_input.value.type)}"

    def _constant(self, constant: Constant) -> str:
        line = f"const @{name_text(constant.name)}: {format_type(constant.value.type)} {name_text(constant.kind)}"
        if constant.names != default_names(constant.name, constant.kind):
            line += f" names({', '.join(map(quote, constant.names))})"
        if not constant.persistent:
            line += " nonpersistent"
        if constant.frozen:
            line += " frozen"
        digest = constant_digest(constant)
        return line if digest is None else f"{line} sha256({quote(digest)})"

    def _node(self, node: Node) -> str:
        try:
            return self._node_line(node)
        except TextFormError as error:
            raise TextFormError(f"cannot store node {node.name} ({node.op.name}, {node.location}): {error}") from error

    def _node_line(self, node: Node) -> str:
        types = [format_type(result.type) for result in node.results]
        typed = types[0] if len(types) == 1 else f"({', '.join(types)})"
        line = f"%{name_text(node.name)}: {typed} = {name_text(node.op.name)}({self._pairs(node.op, node.operands)})"
        if node.attributes:
            line += f" {{{self._pairs(node.op, node.attributes)}}}"
        if node.annotations:
            kinds = sorted(node.annotations, key=annotation_name)
            line += f" [{', '.join(self._value(node.annotations[kind]) for kind in kinds)}]"
        return line + self._locations.reference(node.location) if self._locations else line

    def _pairs(self, op: OpDef, values: Mapping[str, Any]) -> str:
        names = values if op.variadic or len(values) < 2 else _in_schema_order(op, values)
        return ", ".join(f"{name_text(name)}={self._value(values[name])}" for name in names)

    def _value(self, value: Any) -> str:
        try:
            return format_value(value, self._extra)
        except TextFormError:
            if self._strict:
                raise
            return f"object({quote(repr(value))})"

    def _extra(self, value: Any) -> str | None:
        if isinstance(value, Value):
            return _reference(value)
        if not isinstance(value, Graph):
            return None
        text = self._bodies.get(id(value))
        return self.graph(value, self._indent) if text is None else text

    def _too_deep(self, graph: Graph) -> str:
        if self._strict:
            raise TextFormError(
                f"graph {graph.name!r} is nested too deeply to be stored; accepted: {MOST_NESTED} levels"
            )
        return f"object({quote(repr(graph))})"

    def _outputs(self, outputs: list[Output]) -> list[str]:
        lines: list[str] = []
        returned: list[str] = []
        for output in outputs:
            result = self._value(output.literal) if output.value is None else _reference(output.value)
            if output.kind == "user":
                returned.append(result)
                continue
            if returned:
                lines.append(f"return {', '.join(returned)}")
                returned = []
            if output.target is None:
                raise TextFormError(f"{output.name} has no target")
            what = name_text(output.kind.removesuffix("_mutation"))
            lines.append(f"mutate {what} {_reference(output.target)} = {result}")
        return [*lines, f"return {', '.join(returned)}"] if returned else lines


def default_names(name: str, kind: str) -> tuple[str, ...]:
    """Return the default qualified names of a constant, which the text omits."""
    return () if kind == "literal" else (name,)


def _reference(value: Value) -> str:
    producer = value.producer
    text = f"{'@' if isinstance(producer, Constant) else '%'}{name_text(producer.name)}"
    return f"{text}#{value.index}" if isinstance(producer, Node) and len(producer.results) > 1 else text


def _in_schema_order(op: OpDef, values: Mapping[str, Any]) -> list[str]:
    known = [name for name in op.by_name if name in values]
    return known if len(known) == len(values) else known + [name for name in values if name not in op.by_name]


def node_text(node: Node) -> str:
    """Render a node on one line, without annotations and location."""
    operands = ", ".join(f"{name}={value_text(operand)}" for name, operand in node.operands.items())
    attributes = ", ".join(f"{name}={value_text(value)}" for name, value in node.attributes.items())
    return f"%{node.name}: {types_text(node)} = {node.op.name}({operands})" + (
        f" {{{attributes}}}" if attributes else ""
    )


def value_text(value: Any) -> str:
    """Render an operand, attribute or annotation as in the text form."""
    try:
        return format_value(value, _extra_text)
    except TextFormError:
        return repr(value)


def _extra_text(value: Any) -> str | None:
    if isinstance(value, Value):
        return f"@{value.name}" if value.constant is not None else f"%{value.name}"
    return f"graph of {len(value.nodes)} nodes" if isinstance(value, Graph) else None


def types_text(node: Node) -> str:
    """Render the result types of a node."""
    types = [str(result.type) for result in node.results]
    return types[0] if len(types) == 1 else f"({', '.join(types)})"

"""Graphs in Graphviz's language: one digraph each, what a step added or changed in colour."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from graphpress.ir.graph import Graph, Node, Output
from graphpress.ir.node_text import types_text

_STYLE = """  graph [rankdir=TB, fontname="Helvetica", labelloc=t]
  node [shape=box, style="rounded,filled", fillcolor=white, color="#9aa3b2", fontname="Helvetica", fontsize=11]
  edge [color="#8b93a3", fontname="Helvetica", fontsize=9, arrowsize=0.7]"""
_TOUCHED = 'fillcolor="#fdf0d5", color="#a86400"'


def dot_text(graph: Graph, title: str = "", touched: Collection[str] = (), locations: bool = True) -> str:
    """`graph` as a digraph.

    Args:
        graph: the graph. Constants are boxes of their own, dashed; edges are labelled with the operand that reads.
        title: above the drawing.
        touched: names of nodes that are drawn in colour.
        locations: nodes say which module they are from.
    """
    lines = [f"digraph {_quoted(title or graph.name)} {{", _STYLE]
    if title:
        lines.append(f"  label={_quoted(title)}")
    lines += (f"  {line}" for line in _lines(graph, touched, locations))
    return "\n".join([*lines, "}"]) + "\n"


def _lines(graph: Graph, touched: Collection[str], locations: bool) -> Iterator[str]:
    for graph_input in graph.inputs:
        if graph_input.value is not None:
            label = _label(graph_input.name, str(graph_input.value.type))
            yield f"{_quoted('%' + graph_input.name)} [label={label}, shape=ellipse]"
    for constant in graph.constants.values():
        label = _label(constant.name, f"{constant.type} {constant.kind}")
        yield f"{_quoted('@' + constant.name)} [label={label}, style=dashed, fontsize=9]"
    for node in graph.nodes:
        colour = f", {_TOUCHED}" if node.name in touched else ""
        yield f"{_quoted('%' + node.name)} [label={_node_label(node, locations)}{colour}]"
        for operand, index, value in node.operand_values():
            source = f"{'@' if value.constant is not None else '%'}{value.producer.name}"
            place = operand if index is None else f"{operand}[{index}]"
            yield f"{_quoted(source)} -> {_quoted('%' + node.name)} [label={_quoted(place)}]"
    for number, output in enumerate(graph.outputs):
        yield from _output_lines(number, output)


def _output_lines(number: int, output: Output) -> Iterator[str]:
    if output.value is None:
        return
    name = _quoted(f"output {number}")
    yield f"{name} [label={_label('output', output.kind.replace('_', ' '))}, shape=ellipse]"
    source = f"{'@' if output.value.constant is not None else '%'}{output.value.producer.name}"
    yield f"{_quoted(source)} -> {name}"


def _node_label(node: Node, locations: bool) -> str:
    where = [node.location.module_path] if locations and node.location.module_path else []
    return _label(f"{node.name} = {node.op.name}", *where, types_text(node))


def _label(*lines: str) -> str:
    return _quoted("\n".join(lines))


def _quoted(text: str) -> str:
    """A string of the language, in which only quotes and backslashes are special, and a line ends in ``\\n``."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

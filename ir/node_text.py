"""Nodes, operands and attributes on one line, for messages: as in the text form, and never an error."""

from __future__ import annotations

from typing import Any

from graphpress.ir.attribute_text import TextFormError, format_value
from graphpress.ir.graph import Graph, Node, Value


def node_text(node: Node) -> str:
    """A node on one line, as in the text form, without annotations and location."""
    operands = ", ".join(f"{name}={value_text(operand)}" for name, operand in node.operands.items())
    attributes = ", ".join(f"{name}={value_text(value)}" for name, value in node.attributes.items())
    return f"%{node.name}: {types_text(node)} = {node.op.name}({operands})" + (
        f" {{{attributes}}}" if attributes else ""
    )


def value_text(value: Any) -> str:
    """An operand, attribute or annotation as the text form writes it."""
    try:
        return format_value(value, _extra_text)
    except TextFormError:
        return repr(value)


def _extra_text(value: Any) -> str | None:
    if isinstance(value, Value):
        return f"@{value.name}" if value.constant is not None else f"%{value.name}"
    return f"graph of {len(value.nodes)} nodes" if isinstance(value, Graph) else None


def types_text(node: Node) -> str:
    """The types of a node's results."""
    types = [str(result.type) for result in node.results]
    return types[0] if len(types) == 1 else f"({', '.join(types)})"

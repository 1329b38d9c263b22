"""Reading of nodes in the form that `print_graph` gives nearly all of them, by one regular expression.

That is a node on a line of its own that has one tensor as its result, values as its operands, and attributes without
strings, nested data and annotations. What is written in another way, or is wrong, is left to the parser, which reads
token by token and reports errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import OpDef
from graphpress.ir.text.tokens import PLAIN_NAME, Scanner
from graphpress.ir.types import Type

_NAME = PLAIN_NAME.pattern + "+"  # possessive
_LINE = re.compile(
    rf"[ \t\r\n]*+%({_NAME}): ([a-z][a-z0-9_]*+\[[^\]\"\n]*+\]) = ({_NAME})\(([^()\[\]{{}}\"/\n]*+)\)"
    rf"(?: \{{([^(){{}}\"/\n]*+)\}})?(?: loc\(((?:[0-9]{{1,9}}(?:, )?)++)\))?(?=\n[ \t\r\n]*+(?:[%}}]|return\b))"
)
_NUMBER = re.compile(r"[0-9]+")

Located = list[tuple[Node, list[tuple[int, int]]]]
"""Nodes, and the number of each of their origins with its place in the text."""


class NodeLines:
    """Reads nodes of one graph.

    Args:
        scanner: the text.
        graph: the graph; nodes are added to it.
        values: the values by reference, such as ``%relu``; results are added to it.
        types, ops: those that the parser has read, by text.
        attributes: the attributes that were read, by op and text; they are added to it.
        read_attributes: reads attributes from behind their opening brace up to the closing one.
        located: the places of the nodes are added to it.
    """

    def __init__(
        self,
        scanner: Scanner,
        graph: Graph,
        values: dict[str, Value],
        types: dict[str, Type],
        ops: dict[str, OpDef],
        attributes: dict[tuple[OpDef, str], dict[str, Any]],
        read_attributes: Callable[[OpDef], dict[str, Any]],
        located: Located,
    ):
        self._scanner, self._graph, self._values = scanner, graph, values
        self._types, self._ops, self._attributes = types, ops, attributes
        self._read_attributes = read_attributes
        self._located = located

    def read(self) -> None:
        """Read nodes up to the first that is not in the usual form."""
        scanner, position = self._scanner, self._scanner.position
        while True:
            line = _LINE.match(scanner.text, position)
            if line is None or not self._node(line):
                scanner.jump(position)
                return
            position = line.end()

    def _node(self, line: re.Match[str]) -> bool:
        """Add the node; False if the parser must read it."""
        name, type_text, op_name, operands_text, attributes_text, places = line.groups()
        type, op = self._types.get(type_text), self._ops.get(op_name)
        if type is None or op is None or name in self._graph._names:
            return False
        operands = self._operands(op, operands_text)
        if operands is None:
            return False
        attributes = {} if attributes_text is None else self._attributes_of(op, attributes_text, line.start(5))
        if attributes is None or not operands.keys().isdisjoint(attributes):
            return False
        node = self._graph.insert(op, operands, attributes, (type,), name=name)
        self._values[f"%{name}"] = node.results[0]
        if places is not None:
            start = line.start(6)
            numbers = [(int(number[0]), start + number.start()) for number in _NUMBER.finditer(places)]
            self._located.append((node, numbers))
        return True

    def _operands(self, op: OpDef, text: str) -> dict[str, Value] | None:
        operands: dict[str, Value] = {}
        values, known = self._values, None if op.variadic or not op.parameters else op.by_name
        for item in text.split(", ") if text else ():
            name, _, reference = item.partition("=")
            value = values.get(reference)
            if value is None or name in operands or (name not in known if known else not PLAIN_NAME.fullmatch(name)):
                return None
            operands[name] = value
        return operands

    def _attributes_of(self, op: OpDef, text: str, start: int) -> dict[str, Any] | None:
        found = self._attributes.get((op, text))
        if found is None:
            self._scanner.jump(start)
            found = self._read_attributes(op)
            if self._scanner.position != start + len(text) + 1:
                return None
            self._attributes[op, text] = found
        return found

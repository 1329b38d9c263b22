"""Nodes, constants and outputs as plain data for the page, with what occurs again stored once.

The page refers to values as the text form does: ``%node``, ``%node#1``, ``@constant``. Types, origins and the parts of
annotations go into a pool, and records hold their places there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from math import prod
from typing import Any

import attrs
from attrs import define, field

from graphpress.ir.annotations import annotation_name
from graphpress.ir.graph import Constant, Graph, Input, Node, Output, Value
from graphpress.ir.location import Origin
from graphpress.ir.node_text import value_text
from graphpress.ir.printer import constant_digest

Record = dict[str, Any]


@define(eq=False)
class Encoder:
    """Makes records, and keeps the pool that they refer to."""

    pool: list[Any] = field(factory=list)
    _places: dict[str, int] = field(factory=dict)

    def node(self, node: Node) -> Record:
        """A node: name, op, types, inputs, attributes, annotations, location; what is empty is left out."""
        record: Record = {"n": node.name, "o": node.op.name, "t": [self.pooled(str(r.type)) for r in node.results]}
        if node.operands:
            record["i"] = [[name, operand(value)] for name, value in node.operands.items()]
        if node.attributes:
            record["a"] = {name: value_text(value) for name, value in node.attributes.items()}
        if node.annotations:
            record["x"] = {annotation_name(kind): self.plain(note) for kind, note in node.annotations.items()}
        if node.location.origins:
            record["l"] = [self.origin(origin) for origin in node.location.origins]
        return record

    def constant(self, constant: Constant) -> Record:
        """A constant: type, kind, qualified names, bytes in the model's own dtype, and the hash of its data."""
        type = constant.type
        sizes = [size for size in type.shape if isinstance(size, int)]
        is_static = len(sizes) == len(type.shape)
        return {
            "n": constant.name,
            "t": self.pooled(str(type)),
            "k": constant.kind,
            "q": list(constant.names),
            "b": (prod(sizes) * type.dtype.bits + 7) // 8 if is_static else None,
            "h": (constant_digest(constant) or "")[:16],
        }

    def input(self, graph_input: Input) -> Record:
        """An input: its type, or the Python value it always has."""
        if graph_input.value is None:
            return {"n": graph_input.name, "v": value_text(graph_input.literal)}
        return {"n": graph_input.name, "t": self.pooled(str(graph_input.value.type))}

    def output(self, output: Output) -> Record:
        """An output: what it returns, and what it writes to, where it does."""
        record: Record = {"k": output.kind, "v": operand(output.literal if output.value is None else output.value)}
        return record if output.target is None else record | {"w": operand(output.target)}

    def origin(self, origin: Origin) -> int:
        """Where in the user's model: path and type of the innermost module, and the source line."""
        type_name = origin.scopes[-1].type_name if origin.scopes else ""
        return self.pooled([origin.module_path, type_name, origin.file, origin.line])

    def plain(self, value: Any) -> Any:
        """An annotation's value; attrs objects become ``{"$": place in the pool}``: a class and its fields there."""
        if attrs.has(type(value)):
            fields = {each.name: self.plain(getattr(value, each.name)) for each in attrs.fields(type(value))}
            return {"$": self.pooled([type(value).__name__, fields])}
        if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
            return value if value == value and value not in (float("inf"), float("-inf")) else str(value)
        if isinstance(value, tuple | list):
            return [self.plain(item) for item in value]
        if isinstance(value, Mapping):
            return {"{": [[str(key), self.plain(item)] for key, item in value.items()]}
        if isinstance(value, Enum):
            return str(value.value)
        return value_text(value)

    def pooled(self, data: Any) -> int:
        """The place of `data` in the pool."""
        key = data if isinstance(data, str) else json.dumps(data)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.pool)
            self.pool.append(data)
        return place


def operand(value: Any) -> Any:
    """An operand: a reference, a list of operands, or ``{"=": text}`` for a Python value."""
    if isinstance(value, Value):
        return f"@{value.name}" if value.constant is not None else f"%{value.name}"
    if isinstance(value, tuple):
        return [operand(item) for item in value]
    return {"=": f"graph of {len(value.nodes)} nodes" if isinstance(value, Graph) else value_text(value)}

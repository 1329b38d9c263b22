"""Structural equality of two graphs, with the first difference as text."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from itertools import zip_longest
from typing import Any

import attrs
from attrs import frozen

from graphpress.ir.graph import Constant, Graph, Input, Node, Output, Value
from graphpress.ir.text.printer import constant_digest
from graphpress.ir.types import TensorType


def difference(a: Graph, b: Graph) -> str | None:
    """Return the first structural difference between two graphs as a sentence, or None if they are equal.

    Names count, and so does the order of nodes, inputs and outputs; the order of operands, attributes and constants
    does not. A NaN equals itself, 0.0 differs from -0.0, 1 differs from 1.0 and from True. Constants are equal if their
    types and bytes are.
    """
    open_graphs: list[tuple[str, Iterator[str | _Nested]]] = [("", _differences(a, b))]
    while open_graphs:  # no recursion: graphs may nest deeper than Python's stack
        found = next(open_graphs[-1][1], None)
        if found is None:
            open_graphs.pop()
        elif isinstance(found, _Nested):
            open_graphs.append((f"inside {found.what}: ", _differences(found.first, found.second)))
        else:
            return "".join(where for where, _ in open_graphs) + found
    return None


@frozen
class _Nested:
    """Two nested graphs in the same place, which are compared next."""

    what: str
    first: Graph
    second: Graph


def _differences(a: Graph, b: Graph) -> Iterator[str | _Nested]:
    if a is b:
        return
    yield from _compare("the graph's name", a.name, b.name)
    yield from _compare_keyed("symbol", a.symbols, b.symbols)
    yield from _compare_inputs(a.inputs, b.inputs)
    yield from _compare_constants(a.constants, b.constants)
    for position, (one, other) in enumerate(zip_longest(a.nodes, b.nodes)):
        if one is None or other is None:
            extra, which = (one, "first") if other is None else (other, "second")
            yield f"only the {which} graph has node {position}, {extra.name} = {extra.op.name}"
            return
        yield from _compare_nodes(position, one, other)
    yield from _compare_outputs(a.outputs, b.outputs)
    yield from _compare("the signature", a.signature, b.signature)


def _compare_inputs(a: list[Input], b: list[Input]) -> Iterator[str | _Nested]:
    yield from _compare("the names of the inputs", [i.name for i in a], [i.name for i in b])
    for one, other in zip(a, b, strict=True):
        yield from _compare(f"the type of input {one.name}", _type(one.value), _type(other.value))
        yield from _compare(f"the literal of input {one.name}", one.literal, other.literal)


def _compare_constants(a: Mapping[str, Constant], b: Mapping[str, Constant]) -> Iterator[str | _Nested]:
    yield from _only("constant", a, b)
    for name, one in a.items():
        other = b[name]
        yield from _compare(f"the type of constant {name}", one.value.type, other.value.type)
        for what in ("kind", "names", "persistent", "frozen"):
            yield from _compare(f"{what!r} of constant {name}", getattr(one, what), getattr(other, what))
        if not (one.has_data and other.has_data and one.tensor is other.tensor):
            yield from _compare(f"the data of constant {name}", constant_digest(one), constant_digest(other))


def _compare_nodes(position: int, a: Node, b: Node) -> Iterator[str | _Nested]:
    where = f"node {position}"
    if a.name != b.name or a.op is not b.op:
        yield from _compare(where, f"{a.name} = {a.op.name}", f"{b.name} = {b.op.name}")
    where += f" ({a.name})"
    if len(a.results) != len(b.results) or any(
        not _same(one.type, other.type, []) for one, other in zip(a.results, b.results, strict=True)
    ):
        yield from _compare(f"the types of {where}", [_type(r) for r in a.results], [_type(r) for r in b.results])
    yield from _compare_keyed(f"operand of {where}", a.operands, b.operands)
    yield from _compare_keyed(f"attribute of {where}", a.attributes, b.attributes)
    if a.annotations or b.annotations:
        notes_a, notes_b = _by_class_name(a.annotations), _by_class_name(b.annotations)
        yield from _compare_keyed(f"annotation of {where}", notes_a, notes_b)
    if a.location != b.location:
        yield f"the location of {where} is {a.location} in the first graph, {b.location} in the second"


def _compare_outputs(a: list[Output], b: list[Output]) -> Iterator[str | _Nested]:
    for position, (one, other) in enumerate(zip_longest(a, b)):
        if one is None or other is None:
            yield f"the first graph has {len(a)} outputs, the second {len(b)}"
            return
        for what in ("kind", "value", "literal", "target"):
            yield from _compare(f"{what!r} of output {position}", getattr(one, what), getattr(other, what))


def _compare_keyed(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str | _Nested]:
    if not a and not b:
        return
    yield from _only(what, a, b)
    for key, value in a.items():
        yield from _compare(f"{what}, {key}," if " of " in what else f"{what} {key}", value, b[key])


def _only(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    if a.keys() == b.keys():
        return
    for which, keys, others in (("first", a, b), ("second", b, a)):
        for key in keys:
            if key not in others:
                yield f"only the {which} graph has {what} {key!r}"


def _compare(what: str, a: Any, b: Any) -> Iterator[str | _Nested]:
    graphs: list[tuple[Graph, Graph]] = []
    if not _same(a, b, graphs):
        yield f"{what} is {_shown(a)} in the first graph, {_shown(b)} in the second"
    for one, other in graphs:
        yield _Nested(what, one, other)


def _same(a: Any, b: Any, graphs: list[tuple[Graph, Graph]]) -> bool:
    """Compare two values, but for the graphs in them; these are added to `graphs`, in pairs."""
    if a is b and not isinstance(a, list | tuple | dict):
        return True
    if isinstance(a, Value):
        return isinstance(b, Value) and _identity(a) == _identity(b)
    if isinstance(a, list | tuple):  # the IR does not distinguish lists from tuples
        return (
            isinstance(b, list | tuple)
            and len(a) == len(b)
            and all(_same(one, other, graphs) for one, other in zip(a, b, strict=True))
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return _bits(a) == _bits(b)
    if isinstance(a, complex):
        return _bits(a.real) == _bits(b.real) and _bits(a.imag) == _bits(b.imag)
    if isinstance(a, TensorType | str | int | Enum):
        return bool(a == b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(key in b and _same(value, b[key], graphs) for key, value in a.items())
    if isinstance(a, Graph):
        graphs.append((a, b))
        return True
    if attrs.has(type(a)):
        return all(_same(getattr(a, f.name), getattr(b, f.name), graphs) for f in attrs.fields(type(a)) if f.eq)
    return bool(a == b)


def _bits(number: float) -> bytes:
    return b"nan" if number != number else struct.pack("d", number)


def _identity(value: Value) -> tuple[type, str, int]:
    return type(value.producer), value.producer.name, value.index


def _type(value: Value | None) -> Any:
    return None if value is None else value.type


def _by_class_name(annotations: Mapping[type, Any]) -> dict[str, Any]:
    return {kind.__qualname__: note for kind, note in annotations.items()}


def _shown(value: Any) -> str:
    if isinstance(value, Value):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, _first(value)))}]"
    if isinstance(value, TensorType):
        return str(value)
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _first(items: Iterable[Any], most: int = 20) -> list[Any]:
    items = list(items)
    return items if len(items) <= most else [*items[:most], "..."]

"""Structural diff of two graphs, independent of node names and order.

`equality.difference` finds the first difference of two graphs that should be equal; this module lists all differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from graphpress.ir.alignment import Alignment, align
from graphpress.ir.annotations import annotation_name
from graphpress.ir.graph import Constant, Graph, Node, Output, Value
from graphpress.ir.text.printer import constant_digest, types_text, value_text


@attrs.frozen
class Difference:
    """One difference: what differs, and its text in each graph (None if absent)."""

    what: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.what}: added, {self.after}"
        if self.after is None:
            return f"{self.what}: removed, was {self.before}"
        return f"{self.what}: {self.before} -> {self.after}"


@attrs.frozen
class NodeDifference:
    """The differences of one pair of aligned nodes."""

    before: Node
    after: Node
    differences: tuple[Difference, ...]


@attrs.frozen
class GraphDifference:
    """All differences of two graphs; names, node order and locations do not count.

    Attributes:
        alignment: which node is which.
        removed: nodes of the first graph alone.
        added: nodes of the second graph alone.
        changed: nodes that are in both and not the same.
        others: what differs in inputs, outputs, symbols and signature.
        constants: how many constants, by content, only the first and only the second has.
    """

    alignment: Alignment
    removed: tuple[Node, ...]
    added: tuple[Node, ...]
    changed: tuple[NodeDifference, ...]
    others: tuple[Difference, ...]
    constants: tuple[int, int]

    @property
    def is_empty(self) -> bool:
        """Return True if the graphs are equivalent."""
        return not (self.removed or self.added or self.changed or self.others)

    @property
    def renamed(self) -> dict[str, str]:
        """Return the nodes that have another name in the second graph, as old name to new name."""
        pairs = self.alignment.pairs.items()
        return {before.name: after.name for before, after in pairs if before.name != after.name}


def diff_graphs(first: Graph, second: Graph) -> GraphDifference:
    """Align two graphs and compare the aligned nodes, inputs, outputs and constants."""

    def same_attribute(a: Any, b: Any) -> bool:
        graphs: list[tuple[Graph, Graph]] = []
        return _same_attribute(a, b, graphs) and _are_equivalent(graphs)

    return _difference(first, second, same_attribute)


def _difference(first: Graph, second: Graph, same_attribute: Callable[[Any, Any], bool]) -> GraphDifference:
    alignment = align(first, second)
    names = {a.name: b.name for a, b in alignment.pairs.items()}
    changed = []
    for a, b in alignment.pairs.items():
        found = tuple(_node_differences(a, b, alignment, names, same_attribute))
        if found:
            changed.append(NodeDifference(a, b, found))
    return GraphDifference(
        alignment,
        tuple(node for node in first.nodes if node not in alignment.pairs),
        tuple(node for node in second.nodes if node not in alignment.reverse),
        tuple(changed),
        tuple(_graph_differences(first, second, alignment)),
        _constant_differences(first, second),
    )


def _node_differences(
    a: Node, b: Node, alignment: Alignment, names: Mapping[str, str], same_attribute: Callable[[Any, Any], bool]
) -> Iterator[Difference]:
    if a.op is not b.op:
        yield Difference("op", a.op.name, b.op.name)
    if [result.type for result in a.results] != [result.type for result in b.results]:
        yield Difference("type", types_text(a), types_text(b))
    for name in {**a.operands, **b.operands}:
        mine, theirs = a.operands.get(name), b.operands.get(name)
        if not _same_operand(mine, theirs, alignment):
            yield Difference(name, *_both(mine, theirs))
    for name in {**a.attributes, **b.attributes}:
        in_both = name in a.attributes and name in b.attributes
        mine, theirs = a.attributes.get(name), b.attributes.get(name)
        if not in_both or not same_attribute(mine, theirs):
            before = value_text(mine) if name in a.attributes else None
            yield Difference(name, before, value_text(theirs) if name in b.attributes else None)
    for kind in {**a.annotations, **b.annotations}:
        note, its = a.annotations.get(kind), b.annotations.get(kind)
        if not _same_note(note, its, names):
            before = None if note is None else value_text(note)
            yield Difference(f"[{annotation_name(kind)}]", before, None if its is None else value_text(its))


def _same_operand(a: Any, b: Any, alignment: Alignment) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same_operand(x, y, alignment) for x, y in zip(a, b, strict=True))
    if isinstance(a, Value) and isinstance(b, Value):
        return alignment.corresponds(a, b)
    return a is b or (type(a) is type(b) and not isinstance(a, Value) and bool(a == b))


def _same_attribute(a: Any, b: Any, graphs: list[tuple[Graph, Graph]]) -> bool:
    """Compare two attributes, but for the graphs in them; these are added to `graphs`, in pairs."""
    if isinstance(a, Graph) and isinstance(b, Graph):
        graphs.append((a, b))
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same_attribute(x, y, graphs) for x, y in zip(a, b, strict=True))
    return value_text(a) == value_text(b)


def _are_equivalent(pairs: list[tuple[Graph, Graph]]) -> bool:
    """Compare the graphs of each pair, and those nested in them; no recursion: they may nest deeper than the stack."""
    while pairs:
        first, second = pairs.pop()
        if not _difference(first, second, lambda a, b: _same_attribute(a, b, pairs)).is_empty:
            return False
    return True


def _same_note(a: Any, b: Any, names: Mapping[str, str]) -> bool:
    """Compare two annotations, with node names translated to the second graph."""
    if isinstance(a, str) and isinstance(b, str):
        return a == b or names.get(a) == b
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(_same_note(x, y, names) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same_note(a[key], b[key], names) for key in a)
    if attrs.has(type(a)):
        fields = [field.name for field in attrs.fields(type(a)) if field.eq]
        return all(_same_note(getattr(a, name), getattr(b, name), names) for name in fields)
    return value_text(a) == value_text(b)


def _graph_differences(first: Graph, second: Graph, alignment: Alignment) -> Iterator[Difference]:
    for what in ("inputs", "outputs"):
        counts = len(getattr(first, what)), len(getattr(second, what))
        if counts[0] != counts[1]:
            yield Difference(f"number of {what}", *map(str, counts))
    for place, (one, other) in enumerate(zip(first.inputs, second.inputs, strict=False)):
        mine = one.literal if one.value is None else one.value.type
        theirs = other.literal if other.value is None else other.value.type
        if type(mine) is not type(theirs) or mine != theirs:
            yield Difference(f"input {place}", value_text(mine), value_text(theirs))
    for place, (out, its) in enumerate(zip(first.outputs, second.outputs, strict=False)):
        if not _same_output(out, its, alignment):
            yield Difference(f"output {place}", _output_text(out), _output_text(its))
    if first.symbols != second.symbols:
        yield Difference("symbols", ", ".join(map(str, first.symbols)), ", ".join(map(str, second.symbols)))
    if _specs(first) != _specs(second):
        yield Difference("signature", value_text(first.signature), value_text(second.signature))


def _same_output(a: Output, b: Output, alignment: Alignment) -> bool:
    if a.kind != b.kind or (a.value is None) != (b.value is None) or (a.target is None) != (b.target is None):
        return False
    if a.value is None or b.value is None:
        return type(a.literal) is type(b.literal) and a.literal == b.literal
    if a.target is not None and b.target is not None and not alignment.corresponds(a.target, b.target):
        return False
    return alignment.corresponds(a.value, b.value)


def _specs(graph: Graph) -> Any:
    signature = graph.signature
    return None if signature is None else (signature.in_spec, signature.out_spec)


def _constant_differences(first: Graph, second: Graph) -> tuple[int, int]:
    def contents(graph: Graph) -> Counter[tuple[str, str | None]]:
        return Counter(map(_content, graph.constants.values()))

    mine, theirs = contents(first), contents(second)
    return (mine - theirs).total(), (theirs - mine).total()


def _content(constant: Constant) -> tuple[str, str | None]:
    return str(constant.value.type), constant_digest(constant)


def _both(a: Any, b: Any) -> tuple[str | None, str | None]:
    """Render two operands as text, with contents where constants differ."""
    texts = None if a is None else value_text(a), None if b is None else value_text(b)
    if isinstance(a, Value) and isinstance(b, Value) and a.constant is not None and b.constant is not None:
        return tuple(f"{text} {_content_text(v)}" for text, v in zip(texts, (a, b), strict=True))  # type: ignore[return-value]
    return texts


def _content_text(value: Value) -> str:
    assert value.constant is not None
    return f"({value.type}, sha256 {(constant_digest(value.constant) or '')[:8]})"


def _output_text(output: Output) -> str:
    text = value_text(output.literal) if output.value is None else value_text(output.value)
    return text if output.target is None else f"{value_text(output.target)} = {text}"

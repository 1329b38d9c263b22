"""Parser of the text form of graphs (see `graphpress.ir.text.printer`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from graphpress.ir.collector import holding_collector
from graphpress.ir.graph import Graph, Node, Signature, Value
from graphpress.ir.location import Location, Origin
from graphpress.ir.ops import OpDef, OpError, lookup_op
from graphpress.ir.tensors import tensor_digest
from graphpress.ir.text.attributes import ValueReader
from graphpress.ir.text.locations import MOST_DIGITS_OF_ORIGINS, read_location_table
from graphpress.ir.text.node_lines import Located, NodeLines
from graphpress.ir.text.printer import MOST_NESTED, default_names
from graphpress.ir.text.tokens import STRING, ParseError, Scanner, Token, name_text
from graphpress.ir.text.types import TypeReader
from graphpress.ir.types import Symbol, TensorType, Type

__all__ = ["ParseError", "parse_graph"]

_BLOCK = re.compile(rf"{STRING}|//[^\n]*+|[{{}}]|(?<![\w.%@])graph(?=[ \t\r\n]++@)")
_STATEMENTS = ("symbol", "input", "const", "return", "mutate", "signature")


@holding_collector
def parse_graph(text: str, constants: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Parse the text form of a graph.

    Nothing in the text is executed.

    Args:
        text: the output of `print_graph`, or a hand-written graph.
        constants: data by constant name. Other constants have a type and a hash only.

    Raises:
        ParseError: if the text is not a graph, or a tensor does not match the text.
    """
    if not isinstance(text, str):
        raise ParseError(f"a graph is parsed from a str, not a {type(text).__name__}", "", 0)
    reader = _Reader(text, constants or {})
    try:
        return reader.module()
    except RecursionError:
        raise reader.scanner.error("nested too deeply", reader.scanner.skip_blanks()) from None


class _Reader:
    """The state that the graphs of one text share."""

    def __init__(self, text: str, constants: Mapping[str, torch.Tensor]):
        self.scanner = Scanner(text)
        self.types = TypeReader(self.scanner)
        self.constants = constants
        self.ops: dict[str, OpDef] = {}
        self.attributes: dict[tuple[OpDef, str], dict[str, Any]] = {}
        self.located: Located = []
        self.nested: dict[int, tuple[Graph, int]] = {}  # nested graphs, and where they end, by where they start

    def module(self) -> Graph:
        scanner = self.scanner
        for start in _nested_graphs(scanner):
            scanner.jump(start + len("graph"))
            self.nested[start] = _GraphReader(self).read(), scanner.skip_blanks()
        scanner.jump(0)
        scanner.expect("graph")
        graph = _GraphReader(self).read()
        origins = read_location_table(scanner) if scanner.take_if("locations") else {}
        if scanner.peek().kind != "end":
            scanner.fail("the end of the text")
        self._locate(origins)
        return graph

    def _locate(self, origins: Mapping[int, Origin]) -> None:
        made: dict[tuple[int, ...], Location] = {}
        for node, numbers in self.located:
            key = tuple(number for number, _ in numbers)
            if key not in made:
                for number, start in numbers:
                    if number not in origins:
                        raise self.scanner.error(f"origin {number} is not in the table of locations", start)
                made[key] = Location(tuple(origins[number] for number in key))
            node.location = made[key]

    def op(self, name: str, start: int) -> OpDef:
        if name not in self.ops:
            try:
                self.ops[name] = lookup_op(name)
            except OpError as error:
                raise self.scanner.error(str(error), start) from None
        return self.ops[name]


def _nested_graphs(scanner: Scanner) -> list[int]:
    """Return where nested graphs start, inner ones first: read in this order, they need no recursion.

    Raises:
        ParseError: if they nest too deeply.
    """
    if scanner.text.count("graph") < 2:
        return []
    found: list[int] = []
    blocks: list[int | None] = []  # the open braces: where the graph starts, or None for a dictionary
    depth, start = -1, None
    for match in _BLOCK.finditer(scanner.text):
        if match[0] == "graph":
            start = match.start()
        elif match[0] == "{":
            blocks.append(start)
            depth += start is not None
            if start is not None and depth > MOST_NESTED:
                raise scanner.error(f"graphs are nested too deeply; accepted: {MOST_NESTED} levels", start)
            start = None
        elif match[0] == "}" and blocks:
            start = blocks.pop()
            if start is not None and depth > 0:
                found.append(start)
            depth -= start is not None
            start = None
    return found


class _GraphReader:
    """Parses one graph, from its name on."""

    def __init__(self, shared: _Reader):
        self._shared = shared
        self._scanner = shared.scanner
        self._graph = Graph()
        self._values: dict[str, Value] = {}
        self._plain = ValueReader(shared.scanner, shared.types, self._no_reference)
        self._operand = ValueReader(shared.scanner, shared.types, self._reference)
        self._lines = NodeLines(
            shared.scanner,
            self._graph,
            self._values,
            shared.types.seen,
            shared.ops,
            shared.attributes,
            lambda op: self._pairs(op, "}"),
            shared.located,
        )

    def read(self) -> Graph:
        scanner = self._scanner
        self._graph.name = self._defined("@", "the graph's name, such as @main")[1]
        scanner.expect("{")
        while True:
            self._lines.read()
            token = scanner.peek()
            if token.kind == "ref":
                self._node()
            elif token.text == "}":
                scanner.take()
                return self._graph
            elif token.kind == "word" and token.text in _STATEMENTS:
                scanner.take()
                getattr(self, f"_{token.text}")(token)
            else:
                scanner.fail(f"a node such as '%name: type = op(...)', one of {', '.join(_STATEMENTS)}, or '}}'")

    # Statements.

    def _symbol(self, _: Token) -> None:
        scanner = self._scanner
        name, start = scanner.name("the symbol's name")
        if name in self._graph.symbols:
            raise scanner.error(f"symbol {name} is defined twice", start)
        scanner.expect(":")
        scanner.expect("[")
        minimum = scanner.integer("the lowest value")
        scanner.expect(",")
        maximum = None if scanner.take_if("inf") else scanner.integer("the highest value, or inf")
        scanner.expect("]")
        scanner.expect("hint")
        self._graph.symbols[name] = Symbol(minimum, maximum, scanner.integer("an example value"))

    def _input(self, _: Token) -> None:
        _token, name = self._defined("%", "the input's name, such as %x")
        if self._scanner.take_if("="):
            self._graph.add_input(name, literal=self._plain.read())
            return
        self._scanner.expect(":")
        graph_input = self._graph.add_input(name, self._shared.types.read())
        assert graph_input.value is not None
        self._values[_canonical("%", name, None)] = graph_input.value

    def _const(self, _: Token) -> None:
        scanner = self._scanner
        token, name = self._defined("@", "the constant's name, such as @weight")
        scanner.expect(":")
        start = scanner.skip_blanks()
        type = self._shared.types.read()
        if not isinstance(type, TensorType):
            raise scanner.error(f"a constant is a tensor, not {type}", start)
        kind, _start = scanner.name("the kind: parameter, buffer or literal")
        names, persistent, digest, at = default_names(name, kind), True, None, token.start
        if scanner.take_if("names"):
            scanner.expect("(")
            names = tuple(scanner.separated(")", self._string))
        if scanner.take_if("nonpersistent"):
            persistent = False
        frozen = scanner.take_if("frozen") is not None
        if scanner.take_if("sha256"):
            scanner.expect("(")
            at = scanner.skip_blanks()
            digest = self._string()
            scanner.expect(")")
        tensor = self._data(name, type, digest, at)
        constant = self._graph.add_constant(
            name,
            tensor,
            kind,
            names,
            type=type,
            persistent=persistent,
            digest=None if tensor is not None else digest,
            frozen=frozen,
        )
        self._values[_canonical("@", name, None)] = constant.value

    def _data(self, name: str, type: TensorType, digest: str | None, at: int) -> torch.Tensor | None:
        tensor = self._shared.constants.get(name)
        if tensor is None:
            return None
        if digest is not None and tensor_digest(tensor) != digest:
            raise self._scanner.error(f"the tensor passed for constant {name!r} does not have this hash", at)
        if tuple(tensor.shape) != type.shape:
            raise self._scanner.error(f"constant {name!r} is {type}, the tensor has shape {list(tensor.shape)}", at)
        return tensor

    def _return(self, _: Token) -> None:
        while True:
            self._graph.add_output(**self._result())
            if not self._scanner.take_if(","):
                return

    def _mutate(self, _: Token) -> None:
        scanner = self._scanner
        what, _start = scanner.name("'buffer' or 'input'")
        token = scanner.expect_kind("ref", "the value that is written to")
        target = self._value(token)
        scanner.expect("=")
        kind = f"{what}_mutation" if what in ("buffer", "input") else what
        self._graph.add_output(kind=kind, target=target, **self._result())

    def _signature(self, token: Token) -> None:
        self._graph.signature = self._plain.read_fields(Signature, token.start)

    def _node(self) -> None:
        scanner = self._scanner
        token, name = self._defined("%", "a node's name")
        if not name:
            raise scanner.error("a node's name cannot be empty", token.start)
        scanner.expect(":")
        typed_as_list = scanner.take_if("(")
        types: list[Type] = (
            scanner.separated(")", self._shared.types.read) if typed_as_list else [self._shared.types.read()]
        )
        scanner.expect("=")
        op_name, at = scanner.name("an op such as aten.relu")
        op = self._shared.op(op_name, at)
        scanner.expect("(")
        operands = self._pairs(op, ")")
        attributes = self._pairs(op, "}") if scanner.take_if("{") else {}
        for key in attributes:
            if key in operands:
                raise scanner.error(f"{key!r} of {name} is both operand and attribute", token.start)
        node = self._graph.insert(op, operands, attributes, types, name=name)
        if scanner.take_if("["):
            scanner.separated("]", lambda: self._annotation(node))
        if scanner.take_if("loc"):
            scanner.expect("(")
            self._shared.located.append((node, scanner.separated(")", self._number)))
        several = len(node.results) > 1
        for result in node.results:
            self._values[_canonical("%", name, result.index if several else None)] = result

    def _pairs(self, op: OpDef, close: str) -> dict[str, Any]:
        scanner = self._scanner
        pairs: dict[str, Any] = {}
        reader = self._operand if close == ")" else self._plain

        def pair() -> None:
            name, start = scanner.name("a name from the op's schema")
            if name in pairs:
                raise scanner.error(f"{name!r} is given twice", start)
            if op.parameters and not op.variadic and name not in op.by_name:
                raise scanner.unknown(f"parameter of {op.name} called", repr(name), op.by_name, start)
            scanner.expect("=")
            pairs[name] = reader.read()

        scanner.separated(close, pair)
        return pairs

    def _annotation(self, node: Node) -> None:
        start = self._scanner.skip_blanks()
        note = self._plain.read()
        if isinstance(note, str | int | float | tuple | dict | None):
            raise self._scanner.error("expected an annotation, such as name(field=1)", start)
        if type(note) in node.annotations:
            raise self._scanner.error("a node has at most one annotation of each class", start)
        node.annotations[type(note)] = note

    # Parts of statements.

    def _defined(self, sigil: str, wanted: str) -> tuple[Token, str]:
        """Read the name defined here."""
        scanner = self._scanner
        token = scanner.peek()
        if token.kind != "ref" or token.text[0] != sigil:
            scanner.fail(wanted)
        scanner.take()
        _, name, index = scanner.reference(token)
        if index is not None:
            raise scanner.error("a definition has a plain name; its results are numbered from 0", token.start)
        if name in (self._graph._names if sigil == "%" else self._graph.constants):
            raise scanner.error(f"{token.text} is defined twice", token.start)
        return token, name

    def _result(self) -> dict[str, Any]:
        if self._scanner.peek().kind == "ref":
            return {"value": self._value(self._scanner.take())}
        return {"value": None, "literal": self._plain.read()}

    def _value(self, token: Token) -> Value:
        value = self._values.get(token.text)
        if value is None:
            sigil, name, index = self._scanner.reference(token)
            value = self._values.get(_canonical(sigil, name, index))
            if value is None:
                whole = _canonical(sigil, name, None)
                if index is None and f"{whole}#0" in self._values:
                    raise self._scanner.error(f"{whole} has several results; say {whole}#0", token.start)
                raise self._scanner.unknown("value", token.text, self._values, token.start)
        return value

    def _reference(self, token: Token) -> tuple[Any] | None:
        if token.kind == "ref":
            return (self._value(self._scanner.take()),)
        if token.kind == "word" and token.text == "graph":
            raise self._scanner.error("a graph can be an attribute, not an operand", token.start)
        return None

    def _no_reference(self, token: Token) -> tuple[Any] | None:
        if token.kind == "ref":
            raise self._scanner.error("a value can be an operand or an output, not part of plain data", token.start)
        return self._nested_graph(token)

    def _nested_graph(self, token: Token) -> tuple[Graph] | None:
        if token.kind != "word" or token.text != "graph":
            return None
        if token.start in self._shared.nested:
            graph, end = self._shared.nested.pop(token.start)
            self._scanner.jump(end)
            return (graph,)
        self._scanner.take()
        return (_GraphReader(self._shared).read(),)

    def _string(self) -> str:
        return self._scanner.string(self._scanner.expect_kind("string", "a string"))

    def _number(self) -> tuple[int, int]:
        start = self._scanner.skip_blanks()
        return self._scanner.integer("the number of an origin", MOST_DIGITS_OF_ORIGINS), start


def _canonical(sigil: str, name: str, index: int | None) -> str:
    """Return a reference as `print_graph` writes it."""
    return f"{sigil}{name_text(name)}" + ("" if index is None else f"#{index}")

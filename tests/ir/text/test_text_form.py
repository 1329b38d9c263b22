"""The text form reads back to an equal graph, and errors point at the character."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from enum import Enum
from typing import Any

import pytest
import torch
from attrs import field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphpress.ir import ParseError, difference, parse_graph, print_graph
from graphpress.ir.annotations import annotation
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Signature
from graphpress.ir.location import UNKNOWN, Location, ModuleScope, Origin
from graphpress.ir.ops import OpDef, lookup_op, register_op
from graphpress.ir.text.attributes import TextFormError
from graphpress.ir.text.printer import exact_text
from graphpress.ir.text.types import format_type
from graphpress.ir.types import OpaqueType, ScalarType, Symbol, SymDim, TensorType, Type
from graphpress.passes.framework.testing import GraphBuilder, f32
from tests.ir.strategies import HOSTILE_NAMES, LITERALS, graphs

ANYTHING = register_op(OpDef("text_form_test.anything", variadic=True, result_count=None))
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class Direction(Enum):
    UP = "up"
    DOWN = "down"


@frozen
class Inner:
    limit: float
    direction: Direction = Direction.UP


@annotation("text-form.note")
@frozen
class Note:
    bits: int
    inner: Inner | None = None
    more: tuple[Inner, ...] = ()
    by_name: dict[str, Any] = field(factory=dict)
    _hidden: DType | None = None


@annotation("other_note")
@frozen
class OtherNote:
    note: Note


def relu_graph() -> Graph:
    build = GraphBuilder()
    return build.outputs(build.aten.relu(build.input("x", f32[1, 4]), location=UNKNOWN))


def with_attribute(value: Any) -> Graph:
    graph = Graph()
    graph.insert(ANYTHING, {}, {"value": value}, ())
    return graph


def assert_reads_back(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text)
    assert difference(graph, again) is None
    assert print_graph(again) == text
    assert exact_text(graph) == text


# round trips

TYPES = st.one_of(
    st.builds(
        TensorType,
        st.sampled_from(DType),
        st.lists(
            st.one_of(st.integers(-1, 9), st.sampled_from(["s0", "s0//2", "Max(1, s0)", "3"]).map(SymDim)), max_size=3
        ),
    ),
    st.builds(ScalarType, st.sampled_from(["int", "bool"]), st.sampled_from([None, 3, True, SymDim("2*s0 + 1")])),
    st.builds(ScalarType, HOSTILE_NAMES),
    st.builds(ScalarType, st.just("int"), HOSTILE_NAMES.map(SymDim)),
    st.builds(OpaqueType, HOSTILE_NAMES),
)
LEAVES = st.one_of(
    LITERALS,
    st.sampled_from([math.inf, -math.inf, math.nan, -0.0, 0.0, 5e-324, 1, 1.0, True]),
    st.complex_numbers(),
    st.sampled_from(DType),
    st.sampled_from([torch.channels_last, torch.preserve_format, torch.strided, torch.sparse_coo, torch.float16]),
    st.sampled_from([torch.device("cpu"), torch.device("cuda", 1), slice(1, None, -1), SymDim("s0 + 1")]),
    TYPES,
)
DATA = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.dictionaries(st.one_of(st.integers(), HOSTILE_NAMES), inner)
    ),
    max_leaves=6,
)
INNERS = st.builds(Inner, st.floats(), st.sampled_from(Direction))
NOTES = st.builds(
    Note,
    st.integers(),
    st.none() | INNERS,
    st.lists(INNERS, max_size=2).map(tuple),
    st.dictionaries(HOSTILE_NAMES, st.integers(), max_size=2),
    st.none() | st.sampled_from(DType),
)


@QUICK
@given(graphs())
def test_random_graphs_read_back_equal(graph: Graph) -> None:
    assert_reads_back(graph)


@QUICK
@given(DATA)
def test_every_kind_of_attribute_reads_back(value: Any) -> None:
    assert_reads_back(with_attribute(value))


@QUICK
@given(st.lists(TYPES, max_size=3), NOTES, HOSTILE_NAMES, HOSTILE_NAMES)
def test_types_annotations_and_hostile_names_read_back(types: list[Type], note: Note, name: str, key: str) -> None:
    graph = Graph(name)
    graph.symbols[name] = Symbol(2, None, 4)
    constant = graph.add_constant(name, None, "buffer", type=TensorType(DType.INT4, (2, 2)), persistent=False).value
    flag = graph.add_input(name, ScalarType("int")).value
    node = graph.insert(ANYTHING, {key: [constant, None, 1.5, flag], "b": constant}, {}, types, name=name)
    node.annotations = {Note: note, OtherNote: OtherNote(note)}
    graph.signature = Signature((name, key), name, key)
    graph.add_output(flag, "input_mutation", target=flag)
    graph.add_output(None, literal=name)
    for result in node.results:
        graph.add_output(result, "buffer_mutation", target=constant)
    assert_reads_back(graph)


def test_nested_graphs_read_back_with_their_constants_and_locations() -> None:
    inner = relu_graph()
    inner.name = "body"
    inner.add_constant("w", torch.ones(2))
    inner.node("relu").location = Location((Origin((ModuleScope("a", "A"),), "inner.py", 3),))
    deep = with_attribute((inner, 1))
    graph = with_attribute(deep)
    graph.insert(lookup_op("hop.cond"), {}, {"arg1": inner, "arg2": inner}, ())
    assert_reads_back(graph)


def test_equal_graphs_print_the_same_whatever_order_their_parts_were_made_in() -> None:
    one, other = relu_graph(), relu_graph()
    for graph, names in ((one, ("alpha", "other")), (other, ("other", "alpha"))):
        value = graph.node("relu").result
        attributes = {name: {"alpha": 2, "other": 1.0}[name] for name in names}
        graph.insert(lookup_op("aten.add.Tensor"), {"self": value}, attributes, [value.type])
    assert print_graph(one) == print_graph(other)


def test_the_text_is_this() -> None:
    graph = relu_graph()
    graph.add_constant("conv.weight", torch.zeros(2), names=("conv.weight", "tied"))
    node = graph.node("relu")
    node.location = Location((Origin((ModuleScope("", "M"), ModuleScope("act", "torch.nn.ReLU")), "m.py", 7),))
    node.annotations[Note] = Note(4, Inner(1.0))
    digest = hashlib.sha256(b"float32 [2]\n" + bytes(8)).hexdigest()
    assert print_graph(graph) == (
        "graph @main {\n"
        "  input %x: f32[1, 4]\n"
        f'  const @conv.weight: f32[2] parameter names("conv.weight", "tied") sha256("{digest}")\n'
        '  %relu: f32[1, 4] = aten.relu(self=%x) ["text-form.note"(bits=4, inner=Inner(limit=1.0))] loc(0)\n'
        "  return %relu\n"
        "}\n"
        "locations {\n"
        '  scope 0 "" "M"\n'
        '  scope 1 in 0 "act" "torch.nn.ReLU"\n'
        '  origin 0 scope 1 at "m.py":7\n'
        "}\n"
    )
    assert "loc" not in print_graph(graph, locations=False)


GOLDEN = """\
graph @main {
  input %x: f32[2, 4]
  const @weight: f32[2, 4] parameter sha256("ZEROS")
  const @count: f32[2, 4] buffer sha256("ZEROS")
  %add: f32[2, 4] = aten.add.Tensor(self=%x, other=@weight) {alpha=2} loc(0)
  %split: (f32[1, 4], f32[1, 4]) = aten.split.Tensor(self=%add) {split_size=1}
  %cond: () = hop.cond() {arg0=true, arg1=graph @body {
    input %y: f32[2]
    %neg: f32[2] = aten.neg(self=%y)
    return %neg
  }}
  mutate buffer @count = %x
  return %split#0, %split#1
}
locations {
  scope 0 "" "Model"
  scope 1 in 0 "block.add" "lib.Add"
  origin 0 scope 1 at "model.py":11
}
"""


def test_a_graph_prints_as_documented() -> None:
    inner, build = GraphBuilder(), GraphBuilder()
    body = inner.outputs(inner.aten.neg(inner.input("y", f32[2]), location=UNKNOWN))
    body.name = "body"
    x, weight = build.input(), build.constant("weight", torch.zeros(2, 4))
    count = build.constant("count", torch.zeros(2, 4), "buffer")
    split = build.node("aten.split.Tensor", build.aten.add.Tensor(x, weight, alpha=2), 1, location=UNKNOWN)
    build.node("hop.cond", True, body, types=(), location=UNKNOWN)
    build.write(count, x)
    text = print_graph(build.outputs(*split.results))
    assert re.sub(r"\b[0-9a-f]{64}\b", "ZEROS", text) == GOLDEN
    assert_reads_back(build.graph)


@pytest.mark.parametrize(
    ("dim", "shown"),
    [
        ("s0", "s0"),
        ("Max(1, s0)//2", "Max(1, s0)//2"),
        ("s0 ", '"s0 "'),
        (" s0", '" s0"'),
        ("3", '"3"'),
        ("true", '"true"'),
        ("s0, s1", '"s0, s1"'),
        ("s0)", '"s0)"'),
        ("s0 +", '"s0 +"'),
        ("", '""'),
    ],
)
def test_dims_are_bare_where_they_are_read_back_so(dim: str, shown: str) -> None:
    type = TensorType(DType.FLOAT32, (SymDim(dim), 4))
    assert format_type(type) == f"f32[{shown}, 4]"
    graph = Graph()
    graph.insert(ANYTHING, {}, {}, [type])
    assert_reads_back(graph)


def test_an_origin_without_module_and_line_reads_back() -> None:
    graph = relu_graph()
    graph.node("relu").location = Location((Origin(), Origin((ModuleScope("a", "A"),)), Origin((), "", 3)))
    assert_reads_back(graph)


def test_comments_and_free_layout_are_read() -> None:
    text = """
    graph @main { // the model
      input %x: f32[1,4] // not %y: "
      %relu: f32[ 1, 4 ] = aten.relu(
        self = %x,
      )
      return %relu }
    """
    assert parse_graph(text) == relu_graph()


def test_data_given_to_the_parser_is_checked_against_the_hash() -> None:
    graph = Graph()
    graph.add_constant("w", torch.arange(3.0))
    text = print_graph(graph)
    assert parse_graph(text, {"w": torch.arange(3.0)}).constants["w"].has_data
    assert not parse_graph(text).constants["w"].has_data
    with pytest.raises(ParseError, match="does not have this hash"):
        parse_graph(text, {"w": torch.arange(3.0) + 1})
    with pytest.raises(ParseError, match="the tensor has shape"):
        parse_graph("graph @g { const @w: f32[2] parameter }", {"w": torch.arange(3.0)})


def test_objects_without_text_form_are_shown_but_neither_stored_nor_read() -> None:
    graph = with_attribute(object)
    assert 'object("<class ' in print_graph(graph)
    with pytest.raises(TextFormError, match="anything"):
        exact_text(graph)
    with pytest.raises(ParseError, match="cannot be read"):
        parse_graph(print_graph(graph))


# errors

NODE = "graph @main {{\n  input %x: f32[1, 4]\n  {}\n}}"


@pytest.mark.parametrize(
    ("line", "pointed_at", "message"),
    [
        ("%y: f32[1] = aten.relu(self=%x1)", "%x1", "no value %x1; did you mean '%x'"),
        ("%y: f32[1] = aten.rleu(self=%x)", "aten.rleu", "no op 'aten.rleu'"),
        ("%y: f33[1] = aten.relu(self=%x)", "f33", "no element type 'f33'; did you mean 'f32'"),
        ("%y: tnsr = aten.relu(self=%x)", "tnsr", "no type 'tnsr'"),
        ("%y: f32[s0 +] = aten.relu(self=%x)", "s0 +", "cannot read dimension"),
        ("%y: f32[open('f')] = aten.relu(self=%x)", "open(", "is not supported in dimensions"),
        ("%x: f32[1] = aten.relu(self=%x)", "%x:", "%x is defined twice"),
        ("%y: f32[1] = aten.relu(slef=%x)", "slef", "no parameter of aten.relu called 'slef'; did you mean 'self'"),
        ("%y: f32[1] = aten.relu(self=%x, self=%x)", "self=%x)", "given twice"),
        ("%y: f32[1] = text_form_test.anything(value={{1: 2}: 3})", "{1: 2}", "this cannot be a key"),
        ("%y: f32[1] = aten.relu(self=%x", "\n}", "expected ',' or ')'"),
        ("%y: f32[1] = text_form_test.anything() {out=%x}", "%x}", "not part of plain data"),
        ("%y: f32[1] = aten.relu(self=@w)", "@w", "no value @w"),
        ("%y: f32[1] = aten.relu(self=%x) [nothing(a=1)]", "nothing", "no annotation 'nothing'"),
        ('%y: f32[1] = aten.relu(self=%x) ["text-form.note"(bit=1)]', "bit=", "did you mean 'bits'"),
        ('%y: f32[1] = aten.relu(self=%x) ["text-form.note"()]', '"text-form', "missing 1 required"),
        ("%y: f32[1] = aten.relu(self=%x) [3]", "3]", "expected an annotation"),
        ("%y: f32[1] = aten.relu(self=%x) loc(7)", "7)", "origin 7 is not in the table"),
        ("%y: f32[1] = text_form_test.anything() {a=maybe}", "maybe", "no value 'maybe'"),
        ("%y: (f32[1], f32[1]) = text_form_test.anything() return %y", "%y\n", "several results; say %y#0"),
        ('return "ab\\qc"', "\\qc", "bad string"),
        ('return "abc', '"abc', "a string that does not end"),
        ("return ?", "?", "unexpected character"),
        ("constant @w: f32[1]", "constant", "expected a node such as"),
        ("const @w: int parameter", "int", "a constant is a tensor"),
        ("symbol s0: [a, 3] hint 2", "a,", "expected the lowest value"),
    ],
)
def test_errors_point_at_the_character(line: str, pointed_at: str, message: str) -> None:
    text = NODE.format(line)
    with pytest.raises(ParseError) as caught:
        parse_graph(text)
    error = caught.value
    assert message in str(error)
    at = text.index(pointed_at, text.index(line))
    if pointed_at == "\n}":
        at += 1
    assert error.offset == at
    lines = str(error).split("\n")
    assert f"line {error.line}, column {error.column}" in lines[0]
    assert lines[1][len(lines[2]) - 1] == text[at]


def test_an_error_says_in_which_file_it_is() -> None:
    error = ParseError("bad", "one\n\ttwo", 6, "model.gir")
    assert str(error) == "model.gir: line 2, column 3: bad\n  \ttwo\n  \t ^"
    assert str(ParseError("bad", "one", 1)) == "line 1, column 2: bad\n  one\n   ^"


def test_hostile_text_ends_in_a_parse_error() -> None:
    deep = "[" * 100_000
    for text in ("", "graph", "}", "graph @g {", f"graph @g {{ return {deep}", "graph @g { return " + "9" * 5000):
        with pytest.raises(ParseError):
            parse_graph(text)


@settings(QUICK, max_examples=60)
@given(graphs(max_nodes=3), st.data())
def test_damaged_text_is_read_or_refused_but_never_crashes(graph: Graph, data: st.DataObject) -> None:
    text = print_graph(graph)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    damaged = text[:start] + data.draw(st.text(max_size=3)) + text[end:]
    with contextlib.suppress(ParseError):
        assert_reads_back(parse_graph(damaged))


# equality


def test_difference_says_what_differs() -> None:
    def changed(change: Any) -> str | None:
        graph = relu_graph()
        change(graph, graph.node("relu"))
        return difference(relu_graph(), graph)

    def set_type(graph: Graph, node: Node) -> None:
        node.result.type = TensorType(DType.FLOAT16, (1, 4))

    assert changed(lambda graph, node: None) is None
    assert changed(set_type) == (
        "the types of node 0 (relu) is [f32[1, 4]] in the first graph, [f16[1, 4]] in the second"
    )
    assert "only the second graph has node 1, relu_1 = aten.relu" in str(
        changed(lambda graph, node: graph.insert(node.op, node.operands, {}, [node.result.type]))
    )
    assert "only the second graph has attribute of node 0 (relu) 'a'" in str(
        changed(lambda graph, node: node.attributes.update(a=1))
    )
    assert "annotation" in str(changed(lambda graph, node: node.annotations.update({Note: Note(1)})))
    assert "outputs" in str(changed(lambda graph, node: graph.add_output(None)))
    assert "location" in str(changed(lambda graph, node: setattr(node, "location", Location((Origin(),)))))
    assert "constant" in str(changed(lambda graph, node: graph.add_constant("w", torch.ones(1))))
    assert "symbol" in str(changed(lambda graph, node: graph.symbols.update(s0=Symbol(0, 1, 1))))


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (math.nan, math.nan, True),
        (0.0, -0.0, False),
        (1, 1.0, False),
        (1, True, False),
        ((1, (math.nan,)), [1, [math.nan]], True),
        (complex(0.0, math.nan), complex(-0.0, math.nan), False),
        (Note(1, Inner(math.nan)), Note(1, Inner(math.nan)), True),
        (Note(1, Inner(0.0)), Note(1, Inner(-0.0)), False),
        ({"a": 1}, {"a": True}, False),
    ],
)
def test_numbers_are_equal_bit_by_bit_and_nan_equals_itself(a: Any, b: Any, equal: bool) -> None:
    assert (difference(with_attribute(a), with_attribute(b)) is None) is equal


def test_constants_are_compared_by_their_bytes() -> None:
    def graph(tensor: torch.Tensor) -> Graph:
        graph = Graph()
        graph.add_constant("w", tensor)
        return graph

    assert difference(graph(torch.tensor([math.nan])), graph(torch.tensor([math.nan]))) is None
    assert difference(graph(torch.eye(3)), graph(torch.eye(3).T)) is None
    assert difference(graph(torch.zeros(2)), graph(-torch.zeros(2))) is not None
    tensor = torch.zeros(2)
    one, other = graph(tensor), graph(torch.zeros(2))
    assert difference(one, other) is None
    tensor += 1  # the remembered hash is of the old bytes
    assert "the data of constant w" in str(difference(one, other))


def test_an_origin_of_which_nothing_is_known_does_not_take_the_scope_that_is_defined_next():
    unknown, known = Origin((), "", 0), Origin((ModuleScope("", "models.Net"),), "", 0)
    graph = relu_graph()
    value = graph.node("relu").result
    graph.node("relu").location = Location((unknown,))
    graph.insert(lookup_op("aten.tanh"), {"self": value}, {}, [value.type]).location = Location((known,))
    assert [node.location.origins for node in parse_graph(print_graph(graph)).nodes] == [(unknown,), (known,)]

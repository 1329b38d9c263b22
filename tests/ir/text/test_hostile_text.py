"""Text that is malformed on purpose: refused by an error of ours, in time and memory proportional to its length."""

from __future__ import annotations

import tracemalloc

import pytest

from graphpress.ir.text.attributes import TextFormError
from graphpress.ir.text.parser import ParseError, parse_graph
from graphpress.ir.text.printer import exact_text
from graphpress.ir.types import DimError, SymDim


@pytest.mark.parametrize(
    "expression", ["s0**s0**s0**s0", "s0//0", "0**-s0", "PowByNatural(s0, s0**9)", "Max()", "(-s0)**0.5 // 1"]
)
def test_a_dim_without_a_value_is_an_error_of_ours(expression):
    with pytest.raises(DimError, match="has no value"):
        SymDim(expression).evaluate({"s0": 8})


@pytest.mark.parametrize(
    "expression", ["(" * 5000, "\ud800", "s0\0", "-" * 5000 + "1", "1" * 5000, "1+" * 50_000 + "1"]
)
def test_an_unreadable_dim_is_an_error_of_ours(expression):
    with pytest.raises(DimError, match="cannot read dimension"):
        SymDim(expression).symbols  # noqa: B018


def test_powers_of_dims_have_their_values():
    values = [SymDim(text).evaluate({"s0": 3}) for text in ("s0**4", "PowByNatural(s0, 2)", "(-1)**s0", "1**s0**40")]
    assert values == [81, 9, -1, 1]


@pytest.mark.parametrize(
    "statement",
    [
        "input %x: f32[" + "9" * 5000 + "]",
        "symbol s0: [0, " + "9" * 5000 + "] hint 1",
        "return %x#" + "1" * 5000,
        'input %x: f32["s0]',
    ],
)
def test_a_malformed_statement_is_a_short_error_of_ours(statement):
    with pytest.raises(ParseError) as caught:
        parse_graph(f"graph @main {{ {statement} }}")
    assert len(str(caught.value)) < 1000


TOO_MANY = {
    "numbers as keys": ("{{{}}}", "{}: 0, ", "accepted: 1000 keys that are no strings"),
    "lists as keys": ("{{{}}}", "[{}]: 0, ", "accepted: 1000 keys that are no strings"),
}


@pytest.mark.parametrize("what", TOO_MANY)
def test_keys_whose_hashes_may_be_equal_are_few(what):
    around, item, message = TOO_MANY[what]

    def text(count: int) -> str:
        keys = around.format("".join(item.format(number * (2**61 - 1)) for number in range(count)))
        return f"graph @main {{ input %x: f32[2] %y: f32[2] = hop.cond(arg0=%x) {{arg1={keys}}} return %y }}"

    assert len(parse_graph(text(1000)).node("y").attributes["arg1"]) == 1000
    with pytest.raises(ParseError, match=message):
        parse_graph(text(1001))


def test_a_dictionary_that_is_printed_can_be_read():
    graph = parse_graph("graph @main { input %x: f32[2] %y: f32[2] = hop.cond(arg0=%x) return %y }")
    graph.node("y").attributes["arg1"] = dict.fromkeys(range(1001), 0)
    with pytest.raises(TextFormError, match="more than 1000 keys that are no strings"):
        exact_text(graph)
    graph.node("y").attributes["arg1"] = {str(number): 0 for number in range(1001)}
    assert parse_graph(exact_text(graph)) == graph


@pytest.mark.parametrize("line", ["origin {}", 'scope {} "" ""', 'scope 0 "" "" origin 1 scope {}'])
def test_the_numbers_of_places_have_different_hashes(line):
    with pytest.raises(ParseError, match=r"expected the number of (a|the) (scope|origin)"):
        parse_graph(f'graph @main {{ }} locations {{ {line.format(2**61 - 1)} at "a":1 }}')


def peak_of(text: str) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(ParseError):
            parse_graph(text)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_unterminated_string_takes_no_more_memory_than_its_text():
    text = 'graph @main { input %x: opaque("' + "a" * 1_000_000
    assert peak_of(text) < 20 * len(text)


def test_deep_scopes_take_memory_proportional_to_the_text():
    scopes = "".join(f'scope {n + 1} in {n} "" ""\n' for n in range(20_000))
    text = f'graph @main {{ }} locations {{ scope 0 "" ""\n{scopes} }}'
    assert peak_of(text) < 100 * len(text)

"""Text that is malformed on purpose: refused by an error of ours, in time and memory proportional to its length."""

from __future__ import annotations

import tracemalloc

import pytest

from graphpress.ir.text.parser import ParseError, parse_graph
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

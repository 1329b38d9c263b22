from __future__ import annotations

import math

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.dtypes import DType
from graphpress.passes.framework import OptionError, Pipeline, PipelineSyntaxError, Repeat
from tests.passes.framework.sample_passes import Idle, Mode, Nested, SampleFold, SampleIdle, SampleOptions

numbers = st.floats(allow_nan=False) | st.sampled_from([math.inf, -math.inf, 1e-300, -0.0, 1e22])
strings = st.text() | st.sampled_from(['"', "\\", "},(", 'a"b\\n', "\u2028", "\x00", "none", "\ud800"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | strings,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(strings, inner, max_size=2),
    max_leaves=5,
)
options = st.builds(
    SampleOptions,
    n_bits=st.integers(),
    rtol=numbers,
    title=strings,
    mode=st.sampled_from(Mode),
    maybe=st.sampled_from([None, *Mode]),
    number=st.none() | st.integers() | numbers,
    flag=st.booleans(),
    names=st.lists(strings, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), strings),
    kinds=st.frozensets(strings, max_size=3),
    table=st.dictionaries(strings, st.none() | numbers, max_size=3),
    dtype=st.sampled_from(DType),
    nested=st.builds(Nested, low=numbers, names=st.lists(strings, max_size=2).map(tuple)),
    word=st.sampled_from(["a", "b"]),
    anything=plain,
)
steps = st.recursive(
    options | st.sampled_from([SampleIdle(), SampleFold()]),
    lambda inner: st.builds(
        lambda inner, max: Repeat(*inner, max=max), st.lists(inner, min_size=1, max_size=3), st.integers(1, 99)
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=4))
def test_every_pipeline_is_read_back_equal_from_its_text(steps):
    pipeline = Pipeline(*steps)
    read = Pipeline.parse(str(pipeline))
    assert read == pipeline
    assert str(read) == str(pipeline)  # tells 1 from 1.0 and from True, and -0.0 from 0.0


def test_not_a_number_survives_too():
    pipeline = Pipeline(SampleOptions(rtol=math.nan, number=-math.inf))
    assert str(pipeline) == "sample-options{rtol=nan,number=-inf}"
    assert str(Pipeline.parse(str(pipeline))) == str(pipeline)


def test_options_with_their_default_are_left_out():
    assert str(Pipeline(SampleOptions(n_bits=4, mode=Mode.FAST))) == "sample-options"
    assert str(Pipeline()) == ""
    assert Pipeline.parse("  ") == Pipeline()


def test_values_are_read_by_the_type_of_the_option():
    read = Pipeline.parse(
        'sample-options { rtol = 1, number=2, maybe = none, mode=none, table = {"a": none, "b": 3},'
        ' kinds=[], dtype=int8, nested={"low": -1e-3}, names=["a",\n"b"] }'
    )["sample-options"]
    assert read.rtol == 1.0
    assert isinstance(read.rtol, float)
    assert isinstance(read.number, int)
    assert read.maybe is None
    assert read.mode is Mode.none
    assert read.table == {"a": None, "b": 3.0}
    assert read.dtype is DType.INT8
    assert read.nested == Nested(low=-0.001)
    assert read.names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("sample-idel", 0, "no pass 'sample-idel'; did you mean 'sample-idle'"),
        ("sample-idle,", 12, "expected the name of a pass"),
        ("sample-idle sample-idle", 12, "expected ',' or the end"),
        ("sample-idle,,sample-idle", 12, "expected the name of a pass"),
        ("sample-idle{x=1}", 12, "has no option 'x'; it takes none"),
        ("sample-options{nbits=1}", 15, "no option 'nbits'; did you mean 'n_bits'"),
        ("sample-options{n_bits=1,n_bits=2}", 24, "given twice"),
        ("sample-options{n_bits=1.5}", 22, "option 'n_bits': expected int, found 1.5"),
        ("sample-options{n_bits=true}", 22, "expected int, found true"),
        ("sample-options{flag=1}", 20, "expected bool, found 1"),
        ("sample-options{title=x}", 21, "expected str, found x"),
        ("sample-options{mode=FAS}", 20, "one of FAST, none, inf, found FAS; did you mean 'FAST'"),
        ("sample-options{maybe=FAS}", 21, "did you mean 'FAST'?, or none"),
        ("sample-options{dtype=i5}", 21, "no element type 'i5'"),
        ("sample-options{pair=[1]}", 20, "expected tuple"),
        ('sample-options{nested={"lo": 1}}', 22, "has no field 'lo'; did you mean 'low'"),
        ('sample-options{word="c"}', 20, "expected typing.Literal"),
        ('sample-options{title="x}', 21, "this string does not end"),
        ("sample-options{n_bits=}", 22, "expected a value"),
        ("sample-options{n_bits 1}", 22, "expected '='"),
        ("sample-options{n_bits=1", 23, "expected ','"),
        ("sample-options{anything={[1]: 2}}", 25, "a key must be"),
        ("repeat{max=0}(sample-idle)", 0, "`max` must be a positive integer"),
        ("repeat{mux=1}(sample-idle)", 7, "repeat has no option 'mux'; did you mean 'max'"),
        ("repeat()", 0, "at least one step"),
        ("repeat(sample-idle", 18, "expected ')'"),
        ("sample-idle(sample-idle)", 11, "takes no steps; only repeat does"),
        ("sample-idle)", 11, "expected ',' or the end"),
    ],
)
def test_errors_point_at_the_character(text, at, message):
    with pytest.raises(PipelineSyntaxError) as caught:
        Pipeline.parse(text)
    assert message in str(caught.value)
    assert caught.value.position == at


def test_the_message_shows_the_line_with_a_caret_under_the_character():
    with pytest.raises(PipelineSyntaxError) as caught:
        Pipeline.parse("sample-idle,\n  sample-options{flag=2},\nsample-idle")
    assert str(caught.value).split("\n")[1:] == ["    sample-options{flag=2},", "                        ^"]


def test_an_option_that_has_no_text_is_an_error_when_printed():
    @frozen
    class Odd(Idle):
        name = "odd"
        value: object = None

    with pytest.raises(OptionError, match=r"odd, option 'value': .* has no text form"):
        str(Pipeline(Odd(value=lambda: 1)))

"""Objects become plain data, and come back equal; what does not fit is told with its place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from typing import Any, Literal

import pytest
from attrs import Factory, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.dtypes import DType
from graphpress.ir.plain import PlainError, Word, changed_fields, finite, from_plain, to_plain
from graphpress.passes.config import SpecError
from graphpress.passes.config.palettization_spec import PalettizationSpec


class Mode(Enum):
    FAST = 1
    none = 2


class Level(StrEnum):
    LOW = "low"


@frozen
class Point:
    x: float
    y: float = 0.0


@frozen
class Circle:
    radius: int
    center: Point = Point(0.0)


@frozen
class Everything:
    whole: int = 1
    number: float = 1.0
    text: str = ""
    flag: bool = False
    mode: Mode = Mode.FAST
    level: Level = Level.LOW
    dtype: DType = DType.INT4
    maybe: Point | None = None
    shape: Point | Circle = Point(1.0)
    shapes: tuple[Point | Circle, ...] = ()
    pair: tuple[int, str] = (1, "a")
    names: frozenset[str] = frozenset()
    rows: list[list[int]] = field(factory=list)
    by_name: Mapping[str, float | None] = field(factory=dict)
    word: Literal["a", "b", 3] = "a"
    either: int | float = 1
    spec: PalettizationSpec = field(factory=PalettizationSpec)
    _hidden: int = 0
    derived: int = field(default=Factory(lambda self: self.whole + 1, takes_self=True))


FLOATS = st.floats(allow_nan=False)
POINTS = st.builds(Point, FLOATS, FLOATS)
SHAPES = POINTS | st.builds(Circle, st.integers(), POINTS)
OBJECTS = st.builds(
    Everything,
    whole=st.integers(),
    number=FLOATS,
    text=st.text(),
    flag=st.booleans(),
    mode=st.sampled_from(Mode),
    dtype=st.sampled_from(DType),
    maybe=st.none() | POINTS,
    shape=SHAPES,
    shapes=st.lists(SHAPES, max_size=2).map(tuple),
    pair=st.tuples(st.integers(), st.text()),
    names=st.frozensets(st.text(), max_size=2),
    rows=st.lists(st.lists(st.integers(), max_size=2), max_size=2),
    by_name=st.dictionaries(st.text(), st.none() | FLOATS, max_size=2),
    word=st.sampled_from(["a", "b", 3]),
    either=st.integers() | FLOATS.filter(math.isfinite),
    spec=st.builds(PalettizationSpec, n_bits=st.sampled_from([1, 2, 8])),
    hidden=st.integers(),
    derived=st.integers(),
)


@settings(deadline=None)
@given(OBJECTS)
def test_objects_come_back_equal_through_json(made: Everything) -> None:
    text = json.dumps(finite(to_plain(made)), allow_nan=False)
    again = from_plain(json.loads(text), Everything)
    assert again == made
    assert json.dumps(finite(to_plain(again))) == text  # tells 1 from 1.0 and from True, and -0.0 from 0.0


@settings(deadline=None)
@given(OBJECTS)
def test_what_differs_from_the_defaults_is_enough(made: Everything) -> None:
    assert from_plain(to_plain(made, fields=changed_fields), Everything) == made


def test_the_plain_form_is_this() -> None:
    made = Circle(2, Point(1.0, math.nan))
    assert finite(to_plain(made)) == {"radius": 2, "center": {"x": 1.0, "y": "nan"}}
    assert to_plain({"set": {3, 1}, Mode.none: (DType.FLOAT32, Level.LOW, None)}) == {
        "set": [1, 3],
        "none": ["f32", "LOW", None],
    }
    assert finite({1: -math.inf, None: [math.nan]}) == {"1": "-inf", "None": ["nan"]}


def test_only_changed_fields_are_told_and_near_equals_count_as_changes() -> None:
    assert changed_fields(Everything()) == {"derived": 2}  # a default made of other fields is not known
    made = Everything(whole=True, number=-0.0, by_name={"a": None})
    assert changed_fields(made) == {"whole": True, "number": -0.0, "by_name": {"a": None}, "derived": 2}
    nested = Everything(pair=(True, "a"), shape=Point(1.0, -0.0))  # equal to the defaults, and not the same
    assert list(changed_fields(nested)) == ["shape", "pair", "derived"]

    @frozen
    class Odd:
        thing: Any = math.nan
        call: Any = len

    assert changed_fields(Odd(float("nan"))) == {}
    assert changed_fields(Odd(None, abs)) == {"thing": None, "call": abs}


@pytest.mark.parametrize(
    ("data", "expected", "error"),
    [
        ({"x": "a"}, Point, 'x: expected float, found "a"'),
        ({"x": True}, Point, "x: expected float, found true"),
        ({"x": 10**400}, Point, "x: expected float, found 1000"),
        ({"y": 1.0}, Point, "Point needs x"),
        ({"x": 1, "z": 2}, Point, "Point has no field 'z'; it has x, y"),
        ({"radius": 1, "centre": {}}, Circle, "Circle has no field 'centre'; did you mean 'center'?"),
        ({"radius": 1, "center": {"x": None}}, Circle, "center.x: expected float, found none"),
        ({"radius": 1.0}, Circle, "radius: expected int, found 1.0"),
        ([1], Point, "expected Point, found [1]"),
        ({"shapes": [{"x": 1}, {"q": 1}]}, Everything, "shapes[1]: expected Point or Circle, found {'q': 1}"),
        ({"maybe": {"x": []}}, Everything, "maybe.x: expected float, found [], or none"),
        ({"mode": "FAS"}, Everything, "mode: expected one of FAST, none, found \"FAS\"; did you mean 'FAST'?"),
        ({"mode": None}, Everything, "mode: expected one of FAST, none, found none"),
        ({"dtype": "int5"}, Everything, "dtype: no element type 'int5'; did you mean"),
        ({"rows": [[1], [2, "x"]]}, Everything, 'rows[1][1]: expected int, found "x"'),
        ({"pair": [1]}, Everything, "pair: expected tuple[int, str], found [1]"),
        ({"by_name": {"a b": "c"}}, Everything, "by_name['a b']: expected float, found \"c\", or none"),
        ({"by_name": []}, Everything, "by_name: expected collections.abc.Mapping[str, float | None], found []"),
        ({"word": 3.0}, Everything, "word: expected typing.Literal['a', 'b', 3], found 3.0"),
        ({"spec": {"n_bits": 5}}, Everything, "spec: PalettizationSpec: n_bits: 5 is not"),
        (1, complex, "values of type complex have no plain form"),
        (Word("yes"), bool, "expected bool, found yes"),
        (Word("yes"), Any, "expected a value, found yes; strings are written in double quotes"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(data: Any, expected: Any, error: str) -> None:
    with pytest.raises(PlainError) as caught:
        from_plain(data, expected)
    assert str(caught.value).startswith(error)


def test_quoted_text_is_never_a_keyword() -> None:
    assert from_plain(Word("none"), Mode | None) is None
    assert from_plain("none", Mode | None) is Mode.none
    assert from_plain(Word("true"), bool) is True
    assert from_plain("true", str | bool) == "true"
    assert from_plain(Word("true"), str | bool) is True
    assert from_plain([Word("inf"), "inf", {"a": [1]}], Any) == (math.inf, "inf", {"a": (1,)})
    with pytest.raises(PlainError):
        from_plain("true", bool)


def test_whole_numbers_are_floats_where_the_type_says_so() -> None:
    for expected, value in ((float, 3.0), (int | float, 3), (float | int, 3), (Sequence[float], (3.0,))):
        found = from_plain([3] if isinstance(value, tuple) else 3, expected)
        assert repr(found) == repr(value)


def test_what_has_no_plain_form_is_told_with_its_place() -> None:
    for value, place in (({"a": [1, len]}, "a[1]: <built-in"), ({1: b"x"}, "[1]: b'x'"), (Point(range), "x: <class")):
        with pytest.raises(PlainError, match="is not plain data; accepted: numbers, strings") as caught:
            to_plain(value)
        assert str(caught.value).startswith(place)
    with pytest.raises(PlainError, match="cannot be a key"):
        to_plain({(1, 2): 3})


def test_a_client_says_how_its_leaves_are_written() -> None:
    def special(value: Any) -> Any:
        return {"complex": [value.real, value.imag]} if isinstance(value, complex) else NotImplemented

    assert to_plain([Point(1j)], special) == [{"x": {"complex": [0.0, 1.0]}, "y": 0.0}]


def test_errors_of_configs_are_errors_of_plain_data_with_the_same_path() -> None:
    error = SpecError("no", "b").under("a").in_file("f.yaml")
    assert isinstance(error, PlainError)
    assert (str(error), error.path) == ("f.yaml: a.b: no", "a.b")
    assert str(error.under(3)) == "f.yaml: [3].a.b: no"


def test_types_that_cannot_be_read_are_told() -> None:
    @frozen
    class Lost:
        thing: Nowhere  # noqa: F821

    with pytest.raises(PlainError, match=r"types of the fields of .*Lost cannot be read: name 'Nowhere'"):
        from_plain({"thing": 1}, Lost)

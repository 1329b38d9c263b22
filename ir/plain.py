"""Conversion between typed objects and plain data.

Plain data is the common data of JSON, YAML and pipeline text: None, booleans, numbers, strings, lists, dictionaries.

====================================  ====================================================================
object                                plain data
====================================  ====================================================================
None, bool, int, float, str           itself
list, tuple and other sequences, set  list; a set in the order of its items' text
mapping                               dictionary
Enum member                           its name
`DType`                               its name in the text form, such as ``i4``
class with `to_dict` and `from_dict`  the result of `to_dict`
attrs object                          dictionary of its constructor's arguments
====================================  ====================================================================

`to_plain` writes; a client with other leaves (configs write enums by value, the command line writes types in the text
form) passes its own function for them. `from_plain` reads data as a declared type, and checks it. Its clients are
options of passes, files of measurements, and reproducers.

Two similar modules are not clients. The text form of graphs (`graphpress.ir.text.attributes`) writes the class of each
object, because attributes have no declared types. The constructors of configs (`graphpress.passes.config.arguments`)
also check arguments from Python; they accept the plain form of each argument, so that reading a config means calling
its constructor.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from enum import Enum
from functools import lru_cache
from typing import Any, Self

import attrs

from graphpress.ir.dtypes import DType, DTypeError
from graphpress.ir.errors import GraphpressError, suggestion


class PlainError(GraphpressError, ValueError):
    """Plain data of the wrong type, or an object without plain form.

    Attributes:
        problem: the error, with what would be accepted.
        path: the path from the outermost object, such as ``global_config.op_state_spec.weight.n_bits``.
    """

    def __init__(self, problem: str, path: str = ""):
        super().__init__(problem, path)
        self.problem, self.path = problem, path

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem

    def under(self, key: Hashable) -> Self:
        """The same error with `key` prefixed to its path."""
        return type(self)(self.problem, join_path(key, self.path))


def join_path(key: Hashable, rest: str) -> str:
    """Join a key and a path: dots between names, brackets around other keys."""
    head = key if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"
    return head + rest if not rest or rest.startswith("[") else f"{head}.{rest}"


class Word(str):
    """An unquoted word in pipeline text: a keyword or the name of an enum member, depending on the type."""


KEYWORDS: Mapping[str, Any] = {"true": True, "false": False, "none": None, "inf": math.inf, "nan": math.nan}
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


# writing


def named(value: Any) -> Any:
    """The plain form of enum members, element types and objects with `to_dict`.

    NotImplemented for anything else.
    """
    if isinstance(value, DType):
        return Word(value.value)
    if isinstance(value, Enum):
        return Word(value.name)
    return value.to_dict() if _has_plain_form(type(value)) else NotImplemented


def all_fields(instance: Any) -> dict[str, Any]:
    """The constructor arguments of an attrs object, in order of declaration."""
    return {field.alias: getattr(instance, field.name) for field in constructor_fields(type(instance))}


def changed_fields(instance: Any) -> dict[str, Any]:
    """The constructor arguments of an attrs object that differ from their defaults, in order of declaration."""
    values = all_fields(instance)
    return {
        field.alias: values[field.alias]
        for field in constructor_fields(type(instance))
        if not _is_same(values[field.alias], default_of(field))
    }


def to_plain(
    value: Any,
    special: Callable[[Any], Any] = named,
    fields: Callable[[Any], Mapping[str, Any]] = all_fields,
) -> Any:
    """Convert `value` to plain data that shares nothing with it.

    Args:
        value: see the table above.
        special: a function that returns the plain form of a value that is no number, string, boolean or None; or
            NotImplemented, for the form in the table.
        fields: a function that returns the fields to write of an attrs object.

    Raises:
        PlainError: if a part of `value` has no plain form; with its path.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    known = special(value)
    if known is not NotImplemented:
        return known
    match value:
        case str() | int() | float():  # of a subclass
            return next(base for base in (str, int, float) if isinstance(value, base))(value)
        case Mapping():
            return {_plain_key(key, special): _under(key, item, special, fields) for key, item in value.items()}
        case Set():
            return sorted((to_plain(item, special, fields) for item in value), key=repr)
        case Sequence() if not isinstance(value, bytes | bytearray | range):
            return [_under(place, item, special, fields) for place, item in enumerate(value)]
    if attrs.has(type(value)):
        return {name: _under(name, item, special, fields) for name, item in fields(value).items()}
    raise PlainError(
        f"{value!r} is not plain data; accepted: numbers, strings, lists, dictionaries, enums, attrs classes"
    )


def _under(key: Hashable, value: Any, special: Any, fields: Any) -> Any:
    try:
        return to_plain(value, special, fields)
    except PlainError as error:
        raise error.under(key) from None


def _plain_key(key: Any, special: Callable[[Any], Any]) -> Any:
    plain = to_plain(key, special)
    if isinstance(plain, list | dict):
        raise PlainError(f"{key!r} cannot be a key; accepted: a string, a number, None, or a member of an enum")
    return plain


def _is_same(value: Any, default: Any) -> bool:
    """True if two values are equal, distinguishing 1, 1.0 and True, and 0.0 and -0.0."""
    if value is default:
        return True
    if type(value) is not type(default):
        return False
    if isinstance(value, float) and math.isnan(value):
        return math.isnan(default)
    return bool(value == default) and _text_of(value) == _text_of(default)


def _text_of(value: Any) -> str:
    try:
        return repr(to_plain(value))
    except PlainError:
        return ""


def finite(data: Any) -> Any:
    """Plain data for JSON, with infinities, NaN and all keys as strings."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    return [finite(item) for item in data] if isinstance(data, list | tuple) else data


# the arguments of attrs classes


def constructor_fields(cls: type) -> tuple[Any, ...]:
    """The fields of an attrs class that its constructor takes; each is passed as its `alias`."""
    return tuple(field for field in attrs.fields(cls) if field.init)


def default_of(field: Any) -> Any:
    """The default of a field; `attrs.NOTHING` if it has none or computes it from other fields."""
    default = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return attrs.NOTHING if default.takes_self else default.factory()
    return default


@lru_cache(maxsize=1024)
def field_types(cls: type) -> Mapping[str, Any]:
    """The type of every constructor argument of an attrs class, by the name it is passed as.

    Raises:
        PlainError: if an annotation has a name that its module does not define.
    """
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise PlainError(f"the types of the fields of {cls.__qualname__} cannot be read: {error}") from error
    return {field.alias: hints.get(field.name, Any) for field in constructor_fields(cls)}


# reading

_DEPTH_OF_JSON = 100
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.?)*+"?|[\[{]|[\]}]', re.DOTALL)


def parse_json(text: str | bytes) -> Any:
    """Read JSON, nested at most 100 deep.

    Raises:
        PlainError: if `text` is not JSON, or nested deeper.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        depth = 0
        for found in _BRACKETS.finditer(text):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
            if depth > _DEPTH_OF_JSON:
                raise PlainError(f"nested too deeply; accepted: {_DEPTH_OF_JSON} levels")
        return json.loads(text)
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, PlainError) else PlainError(str(error)) from None


def from_plain(data: Any, expected: Any) -> Any:
    """Read `data` as an object of type `expected`.

    Text in quotes is never a keyword; a `Word` is. Floats are also read from whole numbers, and from the strings that
    `finite` makes. Lists are read as tuples unless the type is a list or a set.

    Raises:
        PlainError: if it does not fit; with the path, what was found, and what would be accepted.
    """
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any or expected is object or isinstance(expected, typing.TypeVar):
        return _untyped(data)
    if expected is None or expected is types.NoneType:
        return _accept(None, data is None or (isinstance(data, Word) and data == "none"), data, expected)
    if origin in (typing.Union, types.UnionType):
        return _from_union(data, arguments, expected)
    if origin is typing.Literal:
        value = _untyped(data)
        return _accept(value, any(value == a and type(value) is type(a) for a in arguments), data, expected)
    if origin is typing.Annotated:
        return from_plain(data, arguments[0])
    kind = origin or expected
    if not isinstance(kind, type):
        raise PlainError(f"values of type {expected} have no plain form")
    if issubclass(kind, Enum):
        return _member(data, kind)
    if kind in (bool, int, float, str):
        return _scalar(data, kind, expected)
    if issubclass(kind, Mapping):
        return _mapping(data, arguments or (Any, Any), expected)
    if issubclass(kind, Sequence | Set):
        return _items(data, kind, arguments, expected)
    if _has_plain_form(kind):
        return _self_reading(data, kind)
    if attrs.has(kind):
        return _instance(data, kind)
    raise PlainError(f"values of type {_type_name(expected)} have no plain form")


def _from_union(data: Any, arms: tuple[Any, ...], expected: Any) -> Any:
    """Read the first arm that fits; a whole number is an int if the union has both int and float."""
    complaint = None
    for arm in sorted(arms, key=lambda arm: (arm is not types.NoneType, arm is float)):
        try:
            return from_plain(data, arm)
        except PlainError as error:
            complaint = complaint if arm is types.NoneType else error
    if complaint is not None and len(arms) == 2 and types.NoneType in arms:  # the error of the other type says more
        raise PlainError(f"{complaint.problem}, or none", complaint.path)
    return _accept(None, False, data, expected)


def _member(data: Any, kind: type[Enum]) -> Enum:
    if isinstance(data, str):
        if kind is DType:
            try:
                return DType.of(str(data))
            except DTypeError as error:
                raise PlainError(str(error)) from None
        if data in kind.__members__:
            return kind[data]
    near = suggestion(data, kind.__members__) if isinstance(data, str) else ""
    raise PlainError(f"expected one of {', '.join(kind.__members__)}, found {_shown(data)}{near}")


def _scalar(data: Any, kind: type, expected: Any) -> Any:
    value = KEYWORDS.get(data, data) if isinstance(data, Word) else data
    if kind is float:
        value = _NOT_FINITE.get(value, value) if isinstance(value, str) else value
        try:
            value = float(value) if type(value) is int else value
        except OverflowError:
            return _accept(None, False, data, expected)
    return _accept(value, type(value) is kind, data, expected)


def _mapping(data: Any, arguments: tuple[Any, ...], expected: Any) -> dict[Any, Any]:
    _accept(None, isinstance(data, Mapping), data, expected)
    return {from_plain(key, arguments[0]): _item(item, arguments[1], key) for key, item in data.items()}


def _items(data: Any, kind: type, arguments: tuple[Any, ...], expected: Any) -> Any:
    _accept(None, isinstance(data, list | tuple), data, expected)
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        _accept(None, len(data) == len(arguments), data, expected)
        return tuple(_item(*pair, place) for place, pair in enumerate(zip(data, arguments, strict=True)))
    items = [_item(item, arguments[0] if arguments else Any, place) for place, item in enumerate(data)]
    if issubclass(kind, Set):
        return frozenset(items) if kind is not set else set(items)
    return items if issubclass(kind, list) else tuple(items)


def _item(data: Any, expected: Any, key: Hashable) -> Any:
    try:
        return from_plain(data, expected)
    except PlainError as error:
        raise error.under(key) from error.__cause__


def _has_plain_form(kind: type) -> bool:
    """True for classes with `to_dict` and `from_dict`, such as configs and specs."""
    return hasattr(kind, "to_dict") and hasattr(kind, "from_dict")


def _self_reading(data: Any, kind: Any) -> Any:
    _accept(None, isinstance(data, Mapping), data, kind)
    try:
        return kind.from_dict(_untyped(data))
    except GraphpressError as error:
        raise PlainError(f"{kind.__name__}: {error}") from error


def _instance(data: Any, kind: type) -> Any:
    _accept(None, isinstance(data, Mapping), data, kind)
    known = field_types(kind)
    for name in data:
        if name not in known:
            accepted = f"; it has {', '.join(known) or 'none'}"
            raise PlainError(f"{kind.__name__} has no field {name!r}{suggestion(str(name), known) or accepted}")
    required = [field.alias for field in constructor_fields(kind) if field.default is attrs.NOTHING]
    if missing := [name for name in required if name not in data]:
        raise PlainError(f"{kind.__name__} needs {', '.join(missing)}")
    values = {name: _item(value, known[name], name) for name, value in data.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise PlainError(f"{kind.__name__}: {error}") from error


def _untyped(data: Any) -> Any:
    """Read data without a declared type."""
    if isinstance(data, Word):
        if data not in KEYWORDS:
            raise PlainError(f"expected a value, found {data}; strings are written in double quotes")
        return KEYWORDS[data]
    if isinstance(data, list | tuple):
        return tuple(map(_untyped, data))
    return {_untyped(key): _untyped(item) for key, item in data.items()} if isinstance(data, Mapping) else data


def _accept(value: Any, is_fit: bool, data: Any, expected: Any) -> Any:
    if not is_fit:
        raise PlainError(f"expected {_type_name(expected)}, found {_shown(data)}")
    return value


def _type_name(expected: Any) -> str:
    if typing.get_origin(expected) in (typing.Union, types.UnionType):
        return " or ".join(map(_type_name, typing.get_args(expected)))
    if expected in (None, types.NoneType):
        return "none"
    return expected.__name__ if isinstance(expected, type) and not typing.get_args(expected) else str(expected)


def _shown(data: Any) -> str:
    if isinstance(data, Word):
        return str(data)
    if data is None or isinstance(data, bool):
        return str(data).lower()
    return json.dumps(data) if isinstance(data, str) else repr(data)

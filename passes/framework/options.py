"""Pass options as text: writing typed values, and fitting what was read to an option's type.

Numbers are written by `repr` (``1e-05``, ``inf``, ``nan``), strings as JSON, ``true``, ``false``, ``none``; tuples,
lists and sets as ``[...]``, dicts as ``{"key": value}``; enum members by name, element types by theirs (``i4``); attrs
objects as dicts of the fields that differ from their defaults; what has `to_dict` and `from_dict` as these say.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from typing import Any

import attrs

from graphpress.ir.dtypes import DType, DTypeError
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.framework.errors import OptionError

_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "inf": math.inf, "nan": math.nan}


class Word(str):
    """A bare word of the text that is no number; its meaning depends on the option's type."""


def write_value(value: Any) -> str:
    """`value` as text.

    Raises:
        OptionError: when there is no text for such values.
    """
    match value:
        case None | bool():
            return str(value).lower()
        case DType():
            return value.value
        case Enum():
            is_word = value.name.isidentifier() and value.name.isascii() and value.name not in _WORDS
            return value.name if is_word else json.dumps(value.name)
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value)
        case str():
            return json.dumps(value)
        case Mapping():
            return "{" + ", ".join(f"{write_value(k)}: {write_value(v)}" for k, v in value.items()) + "}"
        case Set():
            return "[" + ", ".join(sorted(map(write_value, value))) + "]"
        case Sequence() if not isinstance(value, bytes | bytearray | range):
            return "[" + ", ".join(map(write_value, value)) + "]"
    instance: Any = value
    if _has_plain_form(type(instance)):
        return write_value(instance.to_dict())
    if attrs.has(type(instance)):
        fields = changed_fields(instance).items()
        return "{" + ", ".join(f"{json.dumps(name)}: {write_value(field)}" for name, field in fields) + "}"
    raise OptionError(
        f"{value!r} has no text form: options are made of plain data, enums, element types, attrs classes"
    )


def changed_fields(instance: Any) -> dict[str, Any]:
    """The constructor arguments of an attrs object that differ from their defaults, in order of declaration."""
    changed = {}
    for attribute in attrs.fields(type(instance)):
        if attribute.init:
            value = getattr(instance, attribute.name)
            if not _is_default(attribute, value):
                changed[attribute.alias] = value
    return changed


def option_types(cls: type) -> dict[str, Any]:
    """The type of every constructor argument of an attrs class, by name.

    Raises:
        OptionError: when an annotation names something its module does not have.
    """
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise OptionError(f"the option types of {cls.__qualname__} cannot be read: {error}") from error
    return {a.alias: hints.get(a.name, Any) for a in attrs.fields(cls) if a.init}


def fit_value(read: Any, expected: Any) -> Any:
    """What was read as a value of type `expected`.

    `read` is what the text held: numbers, strings, `Word`s, lists, dicts.

    Raises:
        OptionError: when it does not fit; the message says what would be accepted.
    """
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any or expected is object or isinstance(expected, typing.TypeVar):
        return _plain(read)
    if expected is None or expected is types.NoneType:
        return _accept(None, read == "none" and isinstance(read, Word), read, expected)
    if origin in (typing.Union, types.UnionType):
        return _fit_any(read, arguments, expected)
    if origin is typing.Literal:
        plain = _plain(read)
        return _accept(plain, any(plain == a and type(plain) is type(a) for a in arguments), read, expected)
    if origin is typing.Annotated:
        return fit_value(read, arguments[0])
    kind = origin or expected
    if not isinstance(kind, type):
        raise OptionError(f"options of type {expected} have no text form")
    if issubclass(kind, Enum):
        return _fit_enum(read, kind)
    if kind is bool:
        return _accept(read == "true", isinstance(read, Word) and read in ("true", "false"), read, expected)
    if kind is float:
        plain = _plain(read)
        return float(_accept(plain, isinstance(plain, int | float) and not isinstance(plain, bool), read, expected))
    if kind in (int, str):
        return _accept(read, type(read) is kind, read, expected)
    if issubclass(kind, Mapping):
        return _fit_mapping(read, arguments or (Any, Any), expected)
    if issubclass(kind, Sequence | Set):
        return _fit_items(read, kind, arguments, expected)
    if _has_plain_form(kind):
        return _fit_plain_form(read, kind)
    if attrs.has(kind):
        return _fit_attrs(read, kind)
    raise OptionError(f"options of type {_name(expected)} have no text form")


def _fit_any(read: Any, arms: tuple[Any, ...], expected: Any) -> Any:
    """The first arm that fits; a number that is written whole is an int where both int and float would do."""
    complaint = None
    for arm in sorted(arms, key=lambda arm: (arm is not types.NoneType, arm is float)):
        try:
            return fit_value(read, arm)
        except OptionError as error:
            complaint = complaint if arm is types.NoneType else error
    if len(arms) == 2 and types.NoneType in arms:  # an optional value: the complaint of its type says most
        raise OptionError(f"{complaint}, or none")
    return _accept(None, False, read, expected)


def _fit_enum(read: Any, kind: type[Enum]) -> Enum:
    if isinstance(read, str):
        if kind is DType:
            try:
                return DType.of(str(read))
            except DTypeError as error:
                raise OptionError(str(error)) from None
        if read in kind.__members__:
            return kind[read]
    near = suggestion(read, kind.__members__) if isinstance(read, str) else ""
    raise OptionError(f"expected one of {', '.join(kind.__members__)}, found {_show(read)}{near}")


def _fit_mapping(read: Any, arguments: tuple[Any, ...], expected: Any) -> dict[Any, Any]:
    _accept(None, isinstance(read, dict), read, expected)
    return {fit_value(key, arguments[0]): fit_value(value, arguments[1]) for key, value in read.items()}


def _fit_items(read: Any, kind: type, arguments: tuple[Any, ...], expected: Any) -> Any:
    _accept(None, isinstance(read, list), read, expected)
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        _accept(None, len(read) == len(arguments), read, expected)
        return tuple(fit_value(item, argument) for item, argument in zip(read, arguments, strict=True))
    items = [fit_value(item, arguments[0] if arguments else Any) for item in read]
    if issubclass(kind, Set):
        return frozenset(items) if kind is not set else set(items)
    return items if issubclass(kind, list) else tuple(items)


def _has_plain_form(kind: type) -> bool:
    """True for configs and specs: they say themselves how they are written as plain data."""
    return hasattr(kind, "to_dict") and hasattr(kind, "from_dict")


def _fit_plain_form(read: Any, kind: Any) -> Any:
    _accept(None, isinstance(read, dict), read, kind)
    try:
        return kind.from_dict(_plain(read))
    except GraphpressError as error:
        raise OptionError(f"{kind.__name__}: {error}") from error


def _fit_attrs(read: Any, kind: type) -> Any:
    _accept(None, isinstance(read, dict), read, kind)
    known = option_types(kind)
    for name in read:
        if name not in known:
            raise OptionError(f"{kind.__name__} has no field {name!r}{suggestion(name, known)}")
    values = {name: fit_value(value, known[name]) for name, value in read.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{kind.__name__}: {error}") from error


def _plain(read: Any) -> Any:
    """What text means where no type says more."""
    if isinstance(read, Word):
        if read not in _WORDS:
            raise OptionError(f"expected a value, found {_show(read)}; strings are written in double quotes")
        return _WORDS[read]
    if isinstance(read, list):
        return tuple(map(_plain, read))
    return {_plain(k): _plain(v) for k, v in read.items()} if isinstance(read, dict) else read


def _accept(value: Any, is_fit: bool, read: Any, expected: Any) -> Any:
    if not is_fit:
        raise OptionError(f"expected {_name(expected)}, found {_show(read)}")
    return value


def _is_default(attribute: attrs.Attribute[Any], value: Any) -> bool:
    default: Any = attribute.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        if default.takes_self:
            return False
        default = default.factory()
    if isinstance(default, float) and math.isnan(default) and isinstance(value, float) and math.isnan(value):
        return True
    return type(default) is type(value) and bool(default == value) and write_value(default) == write_value(value)


def _name(expected: Any) -> str:
    if typing.get_origin(expected) in (typing.Union, types.UnionType):
        return " or ".join(map(_name, typing.get_args(expected)))
    if expected in (None, types.NoneType):
        return "none"
    return expected.__name__ if isinstance(expected, type) and not typing.get_args(expected) else str(expected)


def _show(read: Any) -> str:
    return (
        str(read) if isinstance(read, Word) else write_value(read) if not isinstance(read, dict | list) else repr(read)
    )

"""Checked constructors of specs and configs.

Specs and configs are built from Python and from plain data (YAML, JSON) by the same constructors: each field converts
its argument, and an error has the path of fields and keys that leads to it. This is validation: ranges, near names and
advice, for calls from Python too. `graphpress.ir.plain` writes the plain form of specs and configs; its `from_plain`
reads by declared types alone, and calls these constructors if an option of a pass is a config.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, ClassVar, TypeVar

import attrs

from graphpress.ir.errors import suggestion
from graphpress.passes.config.errors import ArgumentError, SpecError

C = TypeVar("C", bound=type)
E = TypeVar("E", bound=Enum)
V = TypeVar("V")


def strict_arguments(cls: C) -> C:
    """Class decorator that raises `ArgumentError` for unknown, missing and surplus arguments.

    A class may list likely wrong arguments in `argument_hints`, each with the advice for its error, and in
    `empty_arguments` those that it accepts as long as they request nothing: None, ``{}`` or ``{"*": None}``.
    """
    fields = [field for field in attrs.fields(cls) if field.init]
    names = [field.alias or field.name for field in fields]
    required = [name for name, field in zip(names, fields, strict=True) if field.default is attrs.NOTHING]
    positional = [name for name, field in zip(names, fields, strict=True) if not field.kw_only]
    hints: Mapping[str, str] = getattr(cls, "argument_hints", {})
    empty: frozenset[str] = getattr(cls, "empty_arguments", frozenset())
    generated = cls.__init__

    @functools.wraps(generated)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs = {name: value for name, value in kwargs.items() if name not in empty or not _is_empty(value)}
        for name, value in kwargs.items():
            if name not in names:
                advice = hints.get(name) or suggestion(name, names).removeprefix("; ")
                raise ArgumentError(
                    f"{cls.__name__} takes no {name!r} (got {value!r})"
                    f"{'; ' + advice if advice else ''}; accepted: {', '.join(names) or 'nothing'}",
                    name,
                )
        if len(args) > len(positional):
            raise ArgumentError(
                f"{cls.__name__} takes at most {len(positional)} positional arguments"
                f" ({', '.join(positional) or 'none'}), got {len(args)}"
            )
        missing = [name for name in required if name not in kwargs and name not in positional[: len(args)]]
        if missing:
            raise ArgumentError(f"{cls.__name__} needs {', '.join(missing)}")
        generated(self, *args, **kwargs)

    cls.__init__ = __init__
    return cls


def _is_empty(value: Any) -> bool:
    """True if a dictionary of specs requests nothing."""
    return value is None or (isinstance(value, Mapping) and value in ({}, {"*": None}))


def checked(convert: Callable[[Any], V]) -> Any:
    """An attrs converter that runs `convert` and prefixes the path of its errors with the field's name."""

    def run(value: Any, field: attrs.Attribute[Any]) -> V:
        try:
            return convert(value)
        except SpecError as error:
            raise error.under(field.alias or field.name) from None

    return attrs.Converter(run, takes_field=True)


def integer(minimum: int | None = None, *, optional: bool = False) -> Callable[[Any], int | None]:
    """Convert to an int not below `minimum`; None is accepted if `optional`."""

    def convert(value: Any) -> int | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or (minimum is not None and value < minimum):
            wanted = "an integer" + (f" >= {minimum}" if minimum is not None else "")
            raise SpecError(f"{value!r} is not {wanted}{' or None' if optional else ''}")
        return value

    return convert


def number(minimum: float, maximum: float) -> Callable[[Any], float]:
    """Convert to a float within ``[minimum, maximum]``."""

    def convert(value: Any) -> float:
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        if not valid or not minimum <= value <= maximum:
            raise SpecError(f"{value!r} is not a number from {minimum:g} to {maximum:g}")
        return float(value)

    return convert


def boolean(value: Any) -> bool:
    """Convert to a bool; only True and False are accepted."""
    if not isinstance(value, bool):
        raise SpecError(f"{value!r} is not True or False")
    return value


def one_of(accepted: Iterable[V]) -> Callable[[Any], V]:
    """Convert to one of `accepted`."""
    accepted = tuple(accepted)

    def convert(value: Any) -> V:
        if isinstance(value, bool) or value not in accepted:
            near = suggestion(value, map(str, accepted)) if isinstance(value, str) else ""
            raise SpecError(f"{value!r} is not accepted{near}; accepted: {', '.join(map(repr, accepted))}")
        return accepted[accepted.index(value)]

    return convert


def member(enumeration: type[E]) -> Callable[[Any], E]:
    """Convert to a member of an enumeration, from the member, its value, or its name."""
    by_name = {str(item.value): item for item in enumeration} | {item.name: item for item in enumeration}

    def convert(value: Any) -> E:
        if isinstance(value, enumeration):
            return value
        if isinstance(value, str) and value in by_name:
            return by_name[value]
        try:
            return enumeration(value)  # a former value
        except ValueError:
            pass
        accepted = [str(item.value) for item in enumeration]
        near = suggestion(value, accepted) if isinstance(value, str) else ""
        raise SpecError(f"{value!r} is no {enumeration.__name__}{near}; accepted: {', '.join(map(repr, accepted))}")

    return convert


def instance(cls: type[V], *, optional: bool = False) -> Callable[[Any], V | None]:
    """Convert to an instance of `cls`: itself, or a mapping of its constructor's arguments."""

    def convert(value: Any) -> V | None:
        if isinstance(value, cls) or (value is None and optional):
            return value
        if isinstance(value, Mapping):
            return cls(**arguments(value, cls.__name__))
        also = " or None" if optional else ""
        raise SpecError(f"{value!r} is not a {cls.__name__}, nor a mapping of its arguments{also}")

    return convert


class Tagged:
    """A class that plain data selects by a `type` entry: ``{type: per_channel, axis: 0}``."""

    __slots__ = ()
    type_name: ClassVar[str]


def tagged(*classes: type[V], what: str, optional: bool = False) -> Callable[[Any], V | None]:
    """Convert to an instance of one of `classes`: itself, its type name, or a mapping with a `type` entry."""
    by_name: dict[str, type[V]] = {cls.type_name: cls for cls in classes}  # type: ignore[attr-defined]

    def convert(value: Any) -> V | None:
        if isinstance(value, classes) or (value is None and optional):
            return value
        entries = {"type": value} if isinstance(value, str) else value
        if not isinstance(entries, Mapping):
            names = ", ".join(cls.__name__ for cls in classes)
            raise SpecError(f"{value!r} is no {what}; accepted: {names}, or a mapping with type {', '.join(by_name)}")
        kind = entries.get("type")
        if not isinstance(kind, str) or kind not in by_name:
            near = suggestion(str(kind), by_name)
            got = f"{kind!r} is no {what}" if "type" in entries else f"a {what} needs a type"
            raise SpecError(f"{got}{near}; accepted: {', '.join(by_name)}", "type")
        rest = {key: item for key, item in entries.items() if key != "type"}
        return by_name[kind](**arguments(rest, by_name[kind].__name__))

    return convert


def arguments(entries: Mapping[Any, Any], owner: str) -> dict[str, Any]:
    """The entries of a mapping as keyword arguments of `owner`."""
    for key, value in entries.items():
        if not isinstance(key, str):
            raise ArgumentError(f"{owner} takes no {key!r} (got {value!r}); keys are names").under(key)
    return dict(entries)

"""Passes as plain data."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable
from typing import Any

import attrs

from graphpress.ir.errors import GraphpressError
from graphpress.passes.framework import Fact, Pass, RewritePass
from graphpress.passes.framework.facts import fact_set
from graphpress.passes.framework.option_values import option_types, write_value
from graphpress.passes.framework.registry import provider

_BY_OPTIONS = "depends on the options"


def describe(cls: type[Pass]) -> dict[str, Any]:
    """Everything a pass declares. What a property computes from the options is taken from the defaults."""
    instance = _with_defaults(cls)
    return {
        "name": cls.name,
        "summary": cls.summary(),
        "doc": inspect.cleandoc(cls.__doc__ or ""),
        "options": [_option(attribute, kind) for attribute, kind in _options(cls)],
        "needs": _facts(cls, instance, "needs"),
        "gives": _facts(cls, instance, "gives"),
        "breaks": _facts(cls, instance, "breaks"),
        "effect": str(_declared(cls, instance, "effect")),
        "idempotent": cls.is_idempotent,
        "rules": _rules(cls, instance),
        "package": provider(cls),
        "class": f"{cls.__module__}.{cls.__qualname__}",
    }


def _options(cls: type[Pass]) -> Iterable[tuple[Any, Any]]:
    types = option_types(cls)
    return [(a, types[a.alias]) for a in attrs.fields(cls) if a.init]


def _option(attribute: Any, kind: Any) -> dict[str, Any]:
    required = attribute.default is attrs.NOTHING
    return {
        "name": attribute.alias,
        "type": type_text(kind),
        "required": required,
        "default": None if required else _default(attribute),
    }


def _default(attribute: Any) -> str:
    """As a pipeline's text writes it; a default that is long or made from other options is only named."""
    default = attribute.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        if default.takes_self:
            return _BY_OPTIONS
        default = default.factory()
    try:
        text = write_value(default)
    except GraphpressError:
        text = ""
    return text if 0 < len(text) <= 60 else f"{type(default).__name__}()"


def type_text(kind: Any) -> str:
    """A type as its author would write it: ``int | None``, ``tuple[str, ...]``."""
    if kind is type(None):
        return "None"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is None:
        return kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")
    if origin is typing.Union or not isinstance(origin, type) or origin.__name__ == "UnionType":
        if origin is typing.Literal:
            return " | ".join(map(repr, arguments))
        return " | ".join(map(type_text, arguments))
    inner = ", ".join("..." if argument is ... else type_text(argument) for argument in arguments)
    return f"{origin.__name__}[{inner}]"


def _facts(cls: type[Pass], instance: Pass | None, kind: str) -> Any:
    declared = _declared(cls, instance, kind)
    if isinstance(declared, property):
        return _BY_OPTIONS
    facts: Iterable[Fact] = fact_set(declared)
    return [{"name": fact.name, "description": fact.description} for fact in sorted(facts, key=lambda fact: fact.name)]


def _rules(cls: type[Pass], instance: Pass | None) -> list[dict[str, str]]:
    if isinstance(instance, RewritePass):
        rules = instance.all_rules()
    else:
        rules = () if instance is not None else getattr(cls, "rules", ())
    return [] if isinstance(rules, property) else [{"name": rule.name, "summary": rule.summary} for rule in rules]


def _declared(cls: type[Pass], instance: Pass | None, name: str) -> Any:
    return getattr(cls if instance is None else instance, name)


def _with_defaults(cls: type[Pass]) -> Pass | None:
    try:
        return cls()
    except (TypeError, GraphpressError):
        return None

"""Typed notes that passes leave on nodes for later passes.

An annotation is a frozen attrs class registered under a short name; a node holds at most one of each class. They
are part of the text form, so they are made of plain data: numbers, strings, None, tuples, dicts of these, element
types, and other attrs classes whose fields are such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.vocabularies import load_vocabularies

T = TypeVar("T", bound=type)

_CLASSES: dict[str, type] = {}
_NAMES: dict[type, str] = {}


class AnnotationError(GraphpressError, LookupError):
    """An annotation name that is unknown or registered twice."""


def annotation(name: str) -> Callable[[T], T]:
    """Class decorator: the text form of a graph writes annotations of this class under `name`."""

    def register(cls: T) -> T:
        if name in _CLASSES:
            raise AnnotationError(f"annotation {name!r} is already registered for {_CLASSES[name].__qualname__}")
        _CLASSES[name] = cls
        _NAMES[cls] = name
        return cls

    return register


def annotation_class(name: str) -> type:
    """The class registered under `name`."""
    if name not in _CLASSES:
        load_vocabularies()
    if name not in _CLASSES:
        raise AnnotationError(f"no annotation {name!r}{suggestion(name, _CLASSES)}")
    return _CLASSES[name]


def annotation_name(cls: type) -> str:
    """The name `cls` is registered under."""
    if cls not in _NAMES:
        raise AnnotationError(f"{cls.__qualname__} is not registered as an annotation")
    return _NAMES[cls]

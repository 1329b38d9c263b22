"""Typed notes that passes leave on nodes, and the modules that define such notes and further dialects."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeVar

from graphpress.ir.errors import GraphpressError, suggestion

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


_WAITING: dict[str, None] = {}


def register_vocabulary(module: str) -> None:
    """Import the module called `module` before a name is said to be unknown. It registers annotations and dialects."""
    _WAITING[module] = None


def load_vocabularies() -> bool:
    """Import what was registered since the last time; whether there was anything."""
    modules = list(_WAITING)
    _WAITING.clear()  # first, since these modules look up names of their own
    try:
        for module in modules:
            importlib.import_module(module)
    except BaseException:
        _WAITING.update(dict.fromkeys(modules))
        raise
    return bool(modules)

"""Typed node annotations, and lazily imported modules that register annotations and dialects."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeVar

from graphpress.ir.errors import GraphpressError, suggestion

T = TypeVar("T", bound=type)

_CLASSES: dict[str, type] = {}
_NAMES: dict[type, str] = {}


class AnnotationError(GraphpressError, LookupError):
    """An annotation name that is unknown or already registered."""


def annotation(name: str) -> Callable[[T], T]:
    """Class decorator: register an annotation class under `name`, as written in the text form."""

    def register(cls: T) -> T:
        if name in _CLASSES:
            raise AnnotationError(f"annotation {name!r} is already registered for {_CLASSES[name].__qualname__}")
        _CLASSES[name] = cls
        _NAMES[cls] = name
        return cls

    return register


def annotation_class(name: str) -> type:
    """Return the annotation class registered under `name`."""
    if name not in _CLASSES:
        load_vocabularies()
    if name not in _CLASSES:
        raise AnnotationError(f"no annotation {name!r}{suggestion(name, _CLASSES)}")
    return _CLASSES[name]


def annotation_name(cls: type) -> str:
    """Return the name under which `cls` is registered."""
    if cls not in _NAMES:
        raise AnnotationError(f"{cls.__qualname__} is not registered as an annotation")
    return _NAMES[cls]


_WAITING: dict[str, None] = {}


def register_vocabulary(module: str) -> None:
    """Register `module` for import before an annotation or op name is reported as unknown."""
    _WAITING[module] = None


def load_vocabularies() -> bool:
    """Import the modules registered since the last call, and return True if there were any."""
    modules = list(_WAITING)
    _WAITING.clear()  # first, because these modules look up names themselves
    try:
        for module in modules:
            importlib.import_module(module)
    except BaseException:
        _WAITING.update(dict.fromkeys(modules))
        raise
    return bool(modules)

"""The backends there are: what each is called, how it spells compressed values, how it converts a model.

Backends register by `register_backend`, or are found: those of graphpress, and every entry point of the group
``graphpress.backends`` (a backend, or a class that makes one without arguments). Nothing is imported before the first
name is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from typing import Any, Protocol, TypeVar, runtime_checkable

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.framework.passes import Pass

ENTRY_POINT_GROUP = "graphpress.backends"


class BackendRegistrationError(GraphpressError, ValueError):
    """Something that cannot be registered as a backend, or a name that is taken."""


class UnknownBackendError(GraphpressError, LookupError):
    """A name that is no backend."""


@runtime_checkable
class Backend(Protocol):
    """Where compressed models go."""

    name: str
    """Unique, in kebab case."""

    def lowering(self) -> Sequence[Pass]:
        """The passes that spell the `quant` ops of a finalized graph in ops this backend converts."""
        ...

    def convert(self, model: Any, path: str | PathLike[str], example_inputs: Any = None) -> Any:
        """Save `model` at `path`: a module or an exported program whose graph was lowered, or, where the backend takes
        one, a graph; returns a description."""
        ...


B = TypeVar("B")

_BACKENDS: dict[str, Backend] = {}
_OWN = (
    EntryPoint("coreai", "graphpress.backends.coreai.convert:CoreaiBackend", ENTRY_POINT_GROUP),
    EntryPoint("coreml", "graphpress.backends.coreml.convert:CoremlBackend", ENTRY_POINT_GROUP),
)
_discovered = False


def register_backend(backend: B) -> B:
    """Add a backend, or a class that makes one without arguments; also as a class decorator.

    Raises:
        BackendRegistrationError: when it is no backend, or its name is taken or not in kebab case.
    """
    made: Any = backend() if isinstance(backend, type) else backend
    if not isinstance(made, Backend):
        missing = [part for part in ("name", "lowering", "convert") if not hasattr(made, part)]
        raise BackendRegistrationError(f"{made!r} is no backend: it lacks {', '.join(missing)}")
    if not isinstance(made.name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", made.name):
        raise BackendRegistrationError(
            f"{_origin(made)}: the name {made.name!r} will not do; use kebab case such as 'my-chip'"
        )
    known = _BACKENDS.get(made.name)
    if known is not None and _origin(known) != _origin(made):
        raise BackendRegistrationError(
            f"the backend name {made.name!r} is taken twice: by {_origin(known)} and by {_origin(made)}; "
            "give one of them another `name`"
        )
    _BACKENDS[made.name] = made
    return backend


def unregister_backend(name: str) -> None:
    """Forget a backend.

    Raises:
        UnknownBackendError: when there is none of that name.
    """
    del _BACKENDS[lookup_backend(name).name]


def lookup_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        UnknownBackendError: when there is none; the message lists near names and what there is.
        BackendRegistrationError: when an entry point is broken, or two backends claim one name.
    """
    discover_backends()
    if name not in _BACKENDS:
        there_is = ", ".join(sorted(_BACKENDS))
        raise UnknownBackendError(f"no backend {name!r}{suggestion(name, _BACKENDS)}; there is: {there_is}")
    return _BACKENDS[name]


def registered_backends() -> tuple[Backend, ...]:
    """Every backend there is, by name."""
    discover_backends()
    return tuple(_BACKENDS[name] for name in sorted(_BACKENDS))


def discover_backends() -> None:
    """Load the backends of graphpress and those that entry points name. Done once.

    Raises:
        BackendRegistrationError: when one cannot be loaded or is no backend, or two claim one name.
    """
    global _discovered
    if _discovered:
        return
    for entry_point in (*_OWN, *entry_points(group=ENTRY_POINT_GROUP)):
        try:
            found = entry_point.load()
        except Exception as error:
            raise BackendRegistrationError(
                f"the entry point {entry_point.name!r} = {entry_point.value!r} cannot be loaded: {error}"
            ) from error
        register_backend(found)
    _discovered = True


def _origin(backend: object) -> str:
    return f"{type(backend).__module__}.{type(backend).__qualname__}"

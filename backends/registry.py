"""The backend interface, and the registry of backends.

Backends register through `register_backend`, or are discovered at the first lookup: the built-in ones and those of the
entry point group ``graphpress.backends`` (a backend, or a class that constructs one without arguments).
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
    """An object that cannot be registered as a backend, or a name that is taken."""


class UnknownBackendError(GraphpressError, LookupError):
    """An unknown backend name."""


@runtime_checkable
class Backend(Protocol):
    """The interface of a backend, which converts compressed models to its format."""

    name: str
    """Unique name in kebab case."""

    def lowering(self) -> Sequence[Pass]:
        """Return the passes that lower the `quant` ops of a finalized graph to ops this backend converts."""
        ...

    def convert(self, model: Any, path: str | PathLike[str], example_inputs: Any = None) -> Any:
        """Convert a lowered `model`, and save it at `path`.

        `model` is a module, an exported program, or, if the backend supports it, a graph. Returns a description of the
        saved model.
        """
        ...


B = TypeVar("B")

_BACKENDS: dict[str, Backend] = {}
_OWN = (
    EntryPoint("coreai", "graphpress.backends.coreai.convert:CoreaiBackend", ENTRY_POINT_GROUP),
    EntryPoint("coreml", "graphpress.backends.coreml.convert:CoremlBackend", ENTRY_POINT_GROUP),
)
_discovered = False


def register_backend(backend: B) -> B:
    """Register a backend, or a class that constructs one without arguments; also a class decorator.

    Raises:
        BackendRegistrationError: if it is not a backend, or its name is taken or not in kebab case.
    """
    made: Any = backend() if isinstance(backend, type) else backend
    if not isinstance(made, Backend):
        missing = [part for part in ("name", "lowering", "convert") if not hasattr(made, part)]
        raise BackendRegistrationError(f"{made!r} is not a backend: it lacks {', '.join(missing)}")
    if not isinstance(made.name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", made.name):
        raise BackendRegistrationError(
            f"{_origin(made)}: the name {made.name!r} is not valid; use kebab case such as 'my-chip'"
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
    """Unregister a backend.

    Raises:
        UnknownBackendError: if there is no backend of that name.
    """
    del _BACKENDS[lookup_backend(name).name]


def lookup_backend(name: str) -> Backend:
    """Return the backend called `name`.

    Raises:
        UnknownBackendError: if there is none; the message lists similar names and all backends.
        BackendRegistrationError: if an entry point is broken, or two backends have the same name.
    """
    discover_backends()
    if name not in _BACKENDS:
        there_is = ", ".join(sorted(_BACKENDS))
        raise UnknownBackendError(f"no backend {name!r}{suggestion(name, _BACKENDS)}; registered: {there_is}")
    return _BACKENDS[name]


def registered_backends() -> tuple[Backend, ...]:
    """Return every backend, sorted by name."""
    discover_backends()
    return tuple(_BACKENDS[name] for name in sorted(_BACKENDS))


def discover_backends() -> None:
    """Load the built-in backends and those of entry points, once.

    Raises:
        BackendRegistrationError: if one cannot be loaded or is not a backend, or two have the same name.
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

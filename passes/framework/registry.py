"""The registry of passes, by name.

Passes register through the decorator `register_pass`. They are discovered in the modules of `graphpress.passes` and in
the entry points of the group ``graphpress.passes`` (a pass class, or a module that registers passes), at the first
lookup of a name.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from importlib.metadata import EntryPoint, entry_points, packages_distributions
from typing import TypeVar

import attrs

from graphpress.ir.errors import suggestion
from graphpress.passes.framework.errors import PassRegistrationError, UnknownPassError
from graphpress.passes.framework.passes import Pass

ENTRY_POINT_GROUP = "graphpress.passes"
RESERVED_NAMES = frozenset({"repeat"})

P = TypeVar("P", bound=type[Pass])

_PASSES: dict[str, type[Pass]] = {}
_discovered = False
_plugins_loaded = False


def register_pass(cls: P) -> P:
    """Class decorator: register a pass for use in pipelines.

    Raises:
        PassRegistrationError: if the name is taken or not in kebab case, or the class is not a frozen attrs class.
    """
    _check(cls)
    known = _PASSES.get(cls.name)
    if known is not None and _qualified(known) != _qualified(cls):
        raise PassRegistrationError(
            f"the pass name {cls.name!r} is taken twice: by {_qualified(known)} of {provider(known)} and by "
            f"{_qualified(cls)} of {provider(cls)}; give one of them another `name`"
        )
    _PASSES[cls.name] = cls
    return cls


def unregister_pass(cls: type[Pass]) -> None:
    """Remove a pass from the registry."""
    if _PASSES.get(cls.name) is cls:
        del _PASSES[cls.name]


def lookup_pass(name: str) -> type[Pass]:
    """Return the pass class called `name`.

    Raises:
        UnknownPassError: if there is none; the message lists similar names.
    """
    if name not in _PASSES:
        _import_builtin(name)
    if name not in _PASSES:
        discover()
    if name not in _PASSES:
        raise UnknownPassError(f"no pass {name!r}{suggestion(name, [*_PASSES, *RESERVED_NAMES])}")
    return _PASSES[name]


def registered_passes() -> tuple[type[Pass], ...]:
    """Return every available pass, sorted by name."""
    discover()
    return tuple(_PASSES[name] for name in sorted(_PASSES))


def provider(cls: type[Pass]) -> str:
    """Return the distribution of a pass class, or its top-level module."""
    top = cls.__module__.partition(".")[0]
    return packages_distributions().get(top, [top])[0]


def discover() -> None:
    """Import the passes of graphpress and of entry points, once.

    Raises:
        PassRegistrationError: if two passes have the same name, or an entry point cannot be loaded or is not a pass.
    """
    global _discovered
    if _discovered:
        return
    package = importlib.import_module("graphpress.passes")
    for module in pkgutil.iter_modules(package.__path__, "graphpress.passes."):
        if not module.ispkg:
            importlib.import_module(module.name)
    load_plugins()
    _discovered = True


def load_plugins() -> None:
    """Import the entry points, so that passes, rules and patterns of installed packages are registered, once.

    Raises:
        PassRegistrationError: see `discover`.
    """
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True  # set first, because loaded modules may ask for plugins
    try:
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            load_entry_point(entry_point)
    except BaseException:
        _plugins_loaded = False
        raise


def load_entry_point(entry_point: EntryPoint) -> None:
    """Register an entry point: a pass class, or a module that registers passes on import.

    Raises:
        PassRegistrationError: if it cannot be imported, is something else, or has a name that is taken.
    """
    try:
        found = entry_point.load()
    except PassRegistrationError:
        raise
    except Exception as error:
        raise PassRegistrationError(
            f"the entry point {entry_point.name!r} = {entry_point.value!r} cannot be loaded: {error}"
        ) from error
    if isinstance(found, type) and issubclass(found, Pass):
        register_pass(found)
    elif not inspect.ismodule(found):
        raise PassRegistrationError(
            f"the entry point {entry_point.name!r} = {entry_point.value!r} is {found!r}, not a pass class or a module"
        )


def _import_builtin(name: str) -> None:
    """Import the module named after a built-in pass: `fold-batch-norm` is in `passes/fold_batch_norm.py`."""
    module = f"graphpress.passes.{name.replace('-', '_')}"
    if re.fullmatch(r"[a-z0-9-]+", name) and importlib.util.find_spec(module) is not None:
        importlib.import_module(module)


def _check(cls: type[Pass]) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        raise PassRegistrationError(f"{cls!r} is not a Pass class")
    if inspect.isabstract(cls):
        raise PassRegistrationError(f"{_qualified(cls)} does not define `run`")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cls.name) or cls.name in RESERVED_NAMES:
        reserved = " (reserved)" if cls.name in RESERVED_NAMES else ""
        raise PassRegistrationError(
            f"{_qualified(cls)}: the name {cls.name!r} is not valid{reserved}; use kebab case such as 'fold-batch-norm'"
        )
    own_fields = [n for n, t in inspect.get_annotations(cls).items() if "ClassVar" not in str(t)]
    missing = [name for name in own_fields if name not in attrs.fields_dict(cls)]
    if missing:
        raise PassRegistrationError(
            f"{_qualified(cls)}: {missing[0]!r} is not an option because the class is not decorated with `attrs.frozen`"
        )


def _qualified(cls: type[Pass]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"

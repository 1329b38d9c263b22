"""Text form of pytree specs, which describe the nesting of arguments and results.

The text is torch's (`torch.utils._pytree.treespec_dumps`), except that a class without a serialized name, such as a
named tuple or an unnamed dataclass, is written as ``python:module:qualified.name``. Loading finds such a class among
the imported modules; it never imports or executes anything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch.utils._pytree as pytree

from graphpress.ir.errors import GraphpressError
from graphpress.ir.plain import parse_json

_PROTOCOL = 1
_PYTHON = "python:"
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
_TUPLES, _DEFAULT_DICTS = "collections.namedtuple", "collections.defaultdict"


class TreeSpecError(GraphpressError, ValueError):
    """A malformed pytree spec, or one with a class that is not imported."""


def dump_spec(spec: pytree.TreeSpec) -> str:
    """Convert a pytree spec to text.

    A spec with classes that have no importable name is returned unchanged.
    """
    try:
        return pytree.treespec_dumps(spec)
    except NotImplementedError:
        pass
    try:
        return json.dumps([_PROTOCOL, _written(spec)], cls=pytree.EnumEncoder)
    except TypeError:
        return spec  # type: ignore[return-value]


def load_spec(spec: str | pytree.TreeSpec) -> pytree.TreeSpec:
    """The inverse of `dump_spec`.

    Raises:
        TreeSpecError: when the text is no spec, or names a class that is not imported.
    """
    return _loaded(spec) if isinstance(spec, str) else spec


def leaf_count(spec: str | pytree.TreeSpec) -> int:
    """Return the number of leaves of a spec; the classes it names need not be imported.

    Raises:
        TreeSpecError: when the text is no spec.
    """
    if not isinstance(spec, str):
        return spec.num_leaves
    return sum(1 for _ in _leaves(_parsed(spec)))


def spec_children(spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    """Return the child specs; the accessor was renamed in torch."""
    return list(spec.children()) if hasattr(spec, "children") else list(spec.children_specs)


def spec_context(spec: pytree.TreeSpec) -> Any:
    """Return the context of a spec, such as the keys of a dictionary; the accessor was renamed in torch."""
    return spec._context if hasattr(spec, "_context") else spec.context


# Writing.


def _written(spec: pytree.TreeSpec) -> dict[str, Any]:
    if spec.is_leaf():
        return dict(_LEAF)
    context = spec_context(spec)
    children = [_written(child) for child in spec_children(spec)]
    definition = pytree.SUPPORTED_SERIALIZED_TYPES.get(spec.type)
    name = getattr(definition, "serialized_type_name", None)
    if name is None or name == pytree.NO_SERIALIZED_TYPE_NAME_FOUND:
        name = _python_name(spec.type)
    if name == _TUPLES:
        text: Any = _tuple_name(context)
    elif (dumpable := getattr(definition, "to_dumpable_context", None)) is not None:
        text = dumpable(context)
    else:
        text = json.dumps(context, cls=pytree.EnumEncoder)
    return {"type": name, "context": text, "children_spec": children}


def _tuple_name(cls: type) -> str:
    definition = pytree.SUPPORTED_SERIALIZED_TYPES.get(cls)
    name = getattr(definition, "serialized_type_name", pytree.NO_SERIALIZED_TYPE_NAME_FOUND)
    return _python_name(cls) if name == pytree.NO_SERIALIZED_TYPE_NAME_FOUND else name


def _python_name(cls: type) -> str:
    if _found(cls.__module__, cls.__qualname__) is not cls:
        raise TypeError(f"{cls!r} has no importable name")
    return f"{_PYTHON}{cls.__module__}:{cls.__qualname__}"


# Reading.


@lru_cache(maxsize=512)
def _loaded(text: str) -> pytree.TreeSpec:
    try:
        return _read(_parsed(text))
    except (TypeError, LookupError, AttributeError, RecursionError) as error:
        raise TreeSpecError(f"not a pytree spec: {text[:80]!r}: {error}") from error


def _parsed(text: str) -> dict[str, Any]:
    try:
        protocol, schema = parse_json(text)
        if protocol == _PROTOCOL and isinstance(schema, dict):
            for _ in _leaves(schema):
                pass
            return schema
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise TreeSpecError(f"not a pytree spec: {text[:80]!r}")


def _leaves(schema: dict[str, Any]) -> Iterator[None]:
    if schema["type"] is None:
        yield None
    for child in schema["children_spec"]:
        yield from _leaves(child)


def _read(schema: dict[str, Any]) -> pytree.TreeSpec:
    name, context = schema["type"], schema["context"]
    if name is None:
        return pytree.tree_structure(0)
    children = [_read(child) for child in schema["children_spec"]]
    try:
        kind = _class(name)
        definition = pytree.SUPPORTED_SERIALIZED_TYPES.get(kind)
        if name == _TUPLES:
            context = _class(context)
        elif name == _DEFAULT_DICTS:
            factory = _found(context["default_factory_module"], context["default_factory_name"])
            if not isinstance(factory, type):
                raise TreeSpecError(f"the default factory {context['default_factory_name']!r} is not imported")
            context = [factory, context["dict_context"]]
        elif definition is not None and definition.from_dumpable_context is not None:
            context = definition.from_dumpable_context(context)
        else:
            context = json.loads(context, object_hook=_enum_member)
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        if isinstance(error, TreeSpecError):
            raise
        raise TreeSpecError(f"the pytree spec of a {name} cannot be read: {error}") from error
    return pytree.TreeSpec(kind, context, children)


def _class(name: str) -> type:
    """Return the node class that a spec calls `name`."""
    if not name.startswith(_PYTHON):
        known = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
        if known is None:
            raise TreeSpecError(
                f"no pytree class is registered as {name!r} here: import the module that registers it first"
            )
        return known
    module, _, qualified_name = name.removeprefix(_PYTHON).partition(":")
    found = _found(module, qualified_name)
    if found is None:
        raise TreeSpecError(
            f"arguments or results nest in {module}.{qualified_name}, which is not imported: import {module!r} first"
        )
    is_named_tuple = isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")
    if not is_named_tuple and found not in pytree.SUPPORTED_NODES:
        raise TreeSpecError(
            f"{module}.{qualified_name} is not a pytree class: register it with torch.export.register_dataclass "
            "or torch.utils._pytree.register_pytree_node"
        )
    return found


def _found(module: str, qualified_name: str) -> Any:
    """Look up a name in an imported module, or return None; modules that import on attribute access do not."""
    found: Any = sys.modules.get(module)
    for part in qualified_name.split("."):
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    return found


def _enum_member(data: dict[str, Any]) -> Any:
    """Return the enum member that torch wrote as `data`, of an imported class; other data are unchanged."""
    if "__enum__" not in data:
        return data
    module, _, name = str(data.get("fqn")).partition(":")
    found = _found(module, name)
    if not isinstance(found, type) or not issubclass(found, Enum) or data.get("name") not in found.__members__:
        raise TreeSpecError(f"{data.get('name')!r} of {module}.{name} is no member of an imported enum")
    return found[data["name"]]

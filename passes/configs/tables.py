"""Dictionaries in configs: from tensors to specs, from ops and modules to their configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphpress.passes.configs.matching import qualified_name
from graphpress.passes.specs.arguments import instance
from graphpress.passes.specs.errors import ArgumentError, SpecError

ALL = "*"
"""The key that stands for every tensor not named otherwise."""

Table = dict[Any, Any]


def state_table(spec: type) -> Callable[[Any], Table | None]:
    """Convert a dictionary from state names (literal or regular expression, or ``"*"``) to specs; None stays."""
    return _specs(spec, name_key, "the name of a state tensor, such as 'weight', or '*'")


def edge_table(spec: type) -> Callable[[Any], Table | None]:
    """Convert a dictionary from input or output indices, names, or ``"*"`` to specs; None stays."""
    return _specs(spec, _index_or_name, "an index (0, 1, ...), the name of an operand, or '*'")


def config_table(config: type) -> Callable[[Any], Table]:
    """Convert a dictionary from names or types to configs; a value of None disables, no dictionary is an empty one."""
    return entries(name_key, instance(config, optional=True), f"a name to a {config.__name__} or None")


def module_type_key(key: Any) -> str | None:
    """The fully qualified name of a module class, or a name as it is; None for what cannot be a type."""
    return qualified_name(key) if isinstance(key, type) else name_key(key)


def name_key(key: Any) -> str | None:
    """A name as it is; None for what is no name."""
    return key if isinstance(key, str) else None


def entries(to_key: Callable[[Any], Any | None], to_value: Callable[[Any], Any], wanted: str) -> Callable[[Any], Table]:
    """Convert a dictionary by keys and values; `wanted` completes "a dictionary from"."""

    def convert(value: Any) -> Table:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise SpecError(f"{value!r} is not a dictionary from {wanted}")
        converted: Table = {}
        for key, item in value.items():
            known = to_key(key)
            if known is None:
                raise ArgumentError(f"{key!r} is no key of a dictionary from {wanted}")
            if known in converted:
                raise ArgumentError(f"{key!r} is there twice, under two spellings").under(known)
            try:
                converted[known] = to_value(item)
            except SpecError as error:
                raise error.under(known) from None
        return converted

    return convert


def _specs(spec: type, to_key: Callable[[Any], Any | None], key: str) -> Callable[[Any], Table | None]:
    convert = entries(to_key, instance(spec, optional=True), f"{key}, to a {spec.__name__} or None")

    def convert_table(value: Any) -> Table | None:
        if isinstance(value, spec):
            raise SpecError(f"a {spec.__name__} stands alone; accepted: {{'*': spec}} for every tensor, or None")
        return None if value is None else convert(value)

    return convert_table


def _index_or_name(key: Any) -> int | str | None:
    # JSON has string keys only, so an index arrives as its digits.
    if isinstance(key, str):
        return int(key) if key.isdecimal() and key.isascii() else key
    return key if isinstance(key, int) and not isinstance(key, bool) and key >= 0 else None

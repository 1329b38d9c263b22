"""Patterns and dictionaries of config entries, and the ops and modules that they are matched against."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self

import attrs

from graphpress.passes.config.arguments import instance
from graphpress.passes.config.axes import base_op_type
from graphpress.passes.config.errors import ArgumentError, SpecError


@attrs.frozen(slots=False)
class NamePattern:
    """A name, or a regular expression for whole names; text that is no valid expression is a name."""

    text: str

    def matches(self, name: str) -> bool:
        """True if the text equals `name` or matches all of it."""
        return name == self.text or (self._expression is not None and self._expression.fullmatch(name) is not None)

    @cached_property
    def _expression(self) -> re.Pattern[str] | None:
        try:
            return re.compile(self.text)
        except re.error:
            return None


@attrs.frozen(slots=False)
class TypePattern:
    """A module type: ``torch.nn.modules.linear.Linear``, ``torch.nn.Linear``, or a bare class name."""

    text: str

    def matches(self, type_names: tuple[str, ...]) -> bool:
        """True if one of the fully qualified names matches."""
        if self._is_bare:
            return any(name.rpartition(".")[2] == self.text for name in type_names)
        return self.text in type_names or self._canonical in type_names

    @cached_property
    def _is_bare(self) -> bool:
        return "." not in self.text

    @cached_property
    def _canonical(self) -> str:
        cls = loaded_class(self.text)
        return self.text if cls is None else qualified_name(cls)


def qualified_name(cls: type) -> str:
    """Module and name of a class, such as ``torch.nn.modules.linear.Linear``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def loaded_class(name: str) -> type | None:
    """The class of a dotted public name, from loaded modules only; nothing is imported."""
    module_name, _, rest = name.rpartition(".")
    while module_name and module_name not in sys.modules:
        module_name, _, front = module_name.rpartition(".")
        rest = f"{front}.{rest}"
    found: Any = sys.modules.get(module_name)
    for part in rest.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


# Synonyms in torch; a config may use any of them.
_SYNONYMS = {
    "cat": "concat",
    "concatenate": "concat",
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "true_divide": "div",
}


def canonical_op_type(op_type: str) -> str:
    """The canonical name of an op type: without namespace, overload and in-place mark, one among synonyms."""
    name = base_op_type(op_type)
    return _SYNONYMS.get(name, name)


@attrs.frozen(cache_hash=True)
class ModuleScope:
    """A module that an op runs in.

    Attributes:
        path: its name in the model, as in `named_modules`; the model itself is ``""``.
        type_names: fully qualified names of its class; several if one class replaces another.
    """

    path: str
    type_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: str, *types: type | str) -> Self:
        """The scope of a module by its path and class."""
        return cls(path, tuple(qualified_name(kind) if isinstance(kind, type) else kind for kind in types))


ModuleStack = tuple[ModuleScope, ...]


@attrs.frozen(cache_hash=True)
class OpSite:
    """An op of a model, as configs address it.

    Attributes:
        name: name of the node (``linear_1``), or in eager mode ``module.path.op``.
        op_type: such as ``conv2d``; ``aten.conv2d.default`` means the same.
        module_stack: the modules it runs in, the model itself first.
        inputs: names of its operands, by position; None if unknown.
        outputs: names of its results, by position; None if unknown.
        states: names of its parameters and buffers within their module; None if unknown.
    """

    name: str
    op_type: str
    module_stack: ModuleStack = ()
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    states: tuple[str, ...] | None = None


ALL = "*"
"""The key of every tensor that no other key matches."""

Table = dict[Any, Any]


def state_table(spec: type) -> Callable[[Any], Table | None]:
    """Convert a dictionary from state names (literal or regular expression, or ``"*"``) to specs, or None."""
    return _specs(spec, name_key, "the name of a state tensor, such as 'weight', or '*'")


def edge_table(spec: type) -> Callable[[Any], Table | None]:
    """Convert a dictionary from input or output indices, names, or ``"*"`` to specs, or None."""
    return _specs(spec, _index_or_name, "an index (0, 1, ...), the name of an operand, or '*'")


def config_table(config: type) -> Callable[[Any], Table]:
    """Convert a dictionary from names or types to configs; a value of None disables, None is an empty dictionary."""
    return entries(name_key, instance(config, optional=True), f"a name to a {config.__name__} or None")


def module_type_key(key: Any) -> str | None:
    """The fully qualified name of a module class, or the name itself; None for other objects."""
    return qualified_name(key) if isinstance(key, type) else name_key(key)


def name_key(key: Any) -> str | None:
    """The name itself; None for other objects."""
    return key if isinstance(key, str) else None


def entries(to_key: Callable[[Any], Any | None], to_value: Callable[[Any], Any], wanted: str) -> Callable[[Any], Table]:
    """Convert a dictionary by keys and values; `wanted` completes "a dictionary from" in errors."""

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
                raise ArgumentError(f"{key!r} is given twice, in two forms").under(known)
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
            raise SpecError(f"a {spec.__name__} without a key; accepted: {{'*': spec}} for every tensor, or None")
        return None if value is None else convert(value)

    return convert_table


def _index_or_name(key: Any) -> int | str | None:
    # JSON has string keys only, so an index is a string of digits.
    if isinstance(key, str):
        return int(key) if key.isdecimal() and key.isascii() else key
    return key if isinstance(key, int) and not isinstance(key, bool) and key >= 0 else None

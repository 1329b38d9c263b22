"""When a config entry means a module or an op: by name, or by type."""

from __future__ import annotations

import re
import sys
from functools import cached_property
from typing import Any

import attrs

from graphpress.passes.specs.axes import base_op_type


@attrs.frozen(slots=False)
class NamePattern:
    """A name, or a regular expression that must match a whole name. Text that is no valid expression is a name."""

    text: str

    def matches(self, name: str) -> bool:
        """True when the text is `name`, or matches all of it."""
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
        """True when one of the fully qualified names is meant."""
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
    """The class that a dotted public name leads to, through modules already loaded. Nothing is imported."""
    module_name, _, rest = name.rpartition(".")
    while module_name and module_name not in sys.modules:
        module_name, _, front = module_name.rpartition(".")
        rest = f"{front}.{rest}"
    found: Any = sys.modules.get(module_name)
    for part in rest.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


# Names that torch gives one operation; a config may use any of them.
_SYNONYMS = {
    "cat": "concat",
    "concatenate": "concat",
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "true_divide": "div",
}


def canonical_op_type(op_type: str) -> str:
    """One spelling for an op type: no namespace, overload or in-place mark, and one name among synonyms."""
    name = base_op_type(op_type)
    return _SYNONYMS.get(name, name)

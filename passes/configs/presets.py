"""Presets: configs with a name, for a module and for a whole model from the same recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.configs.base import ModuleCompressionConfig

Made = TypeVar("Made")


class PresetError(GraphpressError, AttributeError):
    """A preset that does not exist."""


class Presets(Generic[Made]):
    """Named recipes. Each call makes a fresh config, an ordinary object to be changed at will."""

    def __init__(self, finish: Callable[[Any], Made]):
        self._finish = finish

    @property
    def names(self) -> tuple[str, ...]:
        """The presets there are."""
        members = {name: member for cls in type(self).__mro__ for name, member in vars(cls).items()}
        return tuple(sorted(name for name, member in members.items() if callable(member) and name[0] != "_"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise PresetError(f"no preset {name!r}{suggestion(name, self.names)}; there are {', '.join(self.names)}")


def as_module(config: ModuleCompressionConfig) -> Any:
    """A recipe's result for a module: itself."""
    return config

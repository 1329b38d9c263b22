"""Source locations of nodes: module stack and source line.

A node captured from a model has one origin. A node made by a rewrite has the origins of all nodes it replaces, so that
every node of every later graph maps back to a line of the model.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen


@frozen
class ModuleScope:
    """One module on the call stack: its path (``""`` for the root) and its class name."""

    path: str
    type_name: str


@frozen
class Origin:
    """One point in the user's model: the module stack (outermost first) and the source line."""

    scopes: tuple[ModuleScope, ...] = ()
    file: str = ""
    line: int = 0

    @property
    def module_path(self) -> str:
        """The path of the innermost module."""
        return self.scopes[-1].path if self.scopes else ""

    def __str__(self) -> str:
        module = f"{self.module_path or '<model>'}"
        if self.scopes:
            module += f" ({self.scopes[-1].type_name.rpartition('.')[2]})"
        return f"{module} at {self.file}:{self.line}" if self.file else module


@frozen
class Location:
    """The origins of a node, the most informative one first; empty for nodes that no model contains."""

    origins: tuple[Origin, ...] = ()

    @property
    def scopes(self) -> tuple[ModuleScope, ...]:
        """The module stack of the first origin, outermost first."""
        return self.origins[0].scopes if self.origins else ()

    @property
    def module_path(self) -> str:
        """The path of the innermost module of the first origin."""
        return self.origins[0].module_path if self.origins else ""

    def __or__(self, other: Location) -> Location:
        return self if self == other else Location.union((self, other))

    @staticmethod
    def union(locations: Iterable[Location]) -> Location:
        """All origins of `locations`, each once, in order."""
        known = list(locations)
        if len(known) == 1:
            return known[0]
        return Location(tuple(dict.fromkeys(origin for location in known for origin in location.origins)))

    def __str__(self) -> str:
        return "; ".join(map(str, self.origins)) or "<unknown>"


UNKNOWN = Location()

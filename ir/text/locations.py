"""The table of source locations at the end of a printed graph.

Nodes name origins by number, and origins name module stacks by number, so that a path is written once::

    locations {
      scope 0 "" "models.EDSR"
      scope 1 in 0 "body.0" "models.Block"
      origin 0 scope 1 at "models.py":41
    }
"""

from __future__ import annotations

from collections.abc import Container

from graphpress.ir.location import Location, ModuleScope, Origin
from graphpress.ir.text.tokens import Scanner, quote


class LocationWriter:
    """Numbers origins as they are asked for."""

    def __init__(self) -> None:
        self._origins: dict[Origin, int] = {}
        self._stacks: dict[tuple[ModuleScope, ...], int] = {}
        self._lines: list[str] = []
        self._texts: dict[int, tuple[Location, str]] = {}

    def reference(self, location: Location) -> str:
        """What a node at `location` ends with: `` loc(0, 3)``; empty for an unknown location."""
        if not location.origins:
            return ""
        known = self._texts.get(id(location))
        if known is None:
            text = f" loc({', '.join(str(self._origin(origin)) for origin in location.origins)})"
            known = self._texts[id(location)] = (location, text)  # the location is kept, so its id stays its own
        return known[1]

    def table(self) -> str:
        """The table of all that was asked for; empty when there was nothing."""
        return "".join(["locations {\n", *self._lines, "}\n"]) if self._lines else ""

    def _origin(self, origin: Origin) -> int:
        if origin not in self._origins:
            scope = f" scope {self._stack(origin.scopes)}" if origin.scopes else ""
            # Without either, the `scope` that begins the next line would be read as the origin's.
            has_line = origin.file or origin.line or not origin.scopes
            at = f" at {quote(origin.file)}:{origin.line}" if has_line else ""
            number = self._origins[origin] = len(self._origins)
            self._lines.append(f"  origin {number}{scope}{at}\n")
        return self._origins[origin]

    def _stack(self, scopes: tuple[ModuleScope, ...]) -> int:
        if scopes not in self._stacks:
            outer = f" in {self._stack(scopes[:-1])}" if len(scopes) > 1 else ""
            number = self._stacks[scopes] = len(self._stacks)
            self._lines.append(f"  scope {number}{outer} {quote(scopes[-1].path)} {quote(scopes[-1].type_name)}\n")
        return self._stacks[scopes]


def read_location_table(scanner: Scanner) -> dict[int, Origin]:
    """The origins by number, from the table in braces."""
    stacks: dict[int, tuple[ModuleScope, ...]] = {}
    origins: dict[int, Origin] = {}
    scanner.expect("{")
    while not scanner.take_if("}"):
        if scanner.take_if("scope"):
            number = _new_number(scanner, "scope", stacks)
            outer = _known(scanner, "scope", stacks) if scanner.take_if("in") else ()
            stacks[number] = (*outer, ModuleScope(_text(scanner), _text(scanner)))
        elif scanner.take_if("origin"):
            number = _new_number(scanner, "origin", origins)
            scopes = _known(scanner, "scope", stacks) if scanner.take_if("scope") else ()
            file, line = "", 0
            if scanner.take_if("at"):
                file = _text(scanner)
                scanner.expect(":")
                line = scanner.integer("a line number")
            origins[number] = Origin(scopes, file, line)
        else:
            scanner.fail("'scope', 'origin' or '}'")
    return origins


def _text(scanner: Scanner) -> str:
    return scanner.string(scanner.expect_kind("string", "a string"))


def _new_number(scanner: Scanner, what: str, known: Container[int]) -> int:
    start = scanner.skip_blanks()
    number = scanner.integer(f"the number of the {what}")
    if number in known:
        raise scanner.error(f"{what} {number} is defined twice", start)
    return number


def _known(scanner: Scanner, what: str, known: dict[int, tuple[ModuleScope, ...]]) -> tuple[ModuleScope, ...]:
    start = scanner.skip_blanks()
    number = scanner.integer(f"the number of a {what}")
    if number not in known:
        raise scanner.error(f"no {what} {number} before this line", start)
    return known[number]

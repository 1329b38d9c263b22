"""The table of source locations in the text form.

Nodes refer to origins by number, and origins to module stacks by number, so that each path is written once::

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

MOST_DIGITS_OF_ORIGINS = 18
"""Digits of the numbers of origins and scopes. Longer numbers may have equal hashes, and tables of them take long."""
_MOST_ENTRIES = 1_000_000  # of the stacks together, beside one for each character of the text


class LocationWriter:
    """Numbers origins on first reference."""

    def __init__(self) -> None:
        self._origins: dict[Origin, int] = {}
        self._stacks: dict[tuple[ModuleScope, ...], int] = {}
        self._scopes: dict[tuple[int | None, ModuleScope], int] = {}  # by the number of the enclosing one
        self._lines: list[str] = []
        self._texts: dict[int, tuple[Location, str]] = {}

    def reference(self, location: Location) -> str:
        """Return the reference to `location`, such as `` loc(0, 3)``, or an empty string if it is unknown."""
        if not location.origins:
            return ""
        known = self._texts.get(id(location))
        if known is None:
            text = f" loc({', '.join(str(self._origin(origin)) for origin in location.origins)})"
            known = self._texts[id(location)] = (location, text)  # keeps `location` alive, so that its id stays unique
        return known[1]

    def table(self) -> str:
        """Return the table of all referenced origins, or an empty string if there are none."""
        return "".join(["locations {\n", *self._lines, "}\n"]) if self._lines else ""

    def _origin(self, origin: Origin) -> int:
        if origin not in self._origins:
            scope = f" scope {self._stack(origin.scopes)}" if origin.scopes else ""
            # Without a scope a place is always written: a scope that is defined on the next line would be read as its.
            has_place = origin.file or origin.line or not origin.scopes
            at = f" at {quote(origin.file)}:{origin.line}" if has_place else ""
            number = self._origins[origin] = len(self._origins)
            self._lines.append(f"  origin {number}{scope}{at}\n")
        return self._origins[origin]

    def _stack(self, scopes: tuple[ModuleScope, ...]) -> int:
        if scopes not in self._stacks:
            outer: int | None = None
            for scope in scopes:
                number = self._scopes.get((outer, scope))
                if number is None:
                    number = self._scopes[outer, scope] = len(self._scopes)
                    within = "" if outer is None else f" in {outer}"
                    self._lines.append(f"  scope {number}{within} {quote(scope.path)} {quote(scope.type_name)}\n")
                outer = number
            assert outer is not None
            self._stacks[scopes] = outer
        return self._stacks[scopes]


def read_location_table(scanner: Scanner) -> dict[int, Origin]:
    """Read the location table in braces, and return the origins by number."""
    stacks: dict[int, tuple[ModuleScope, ...]] = {}
    origins: dict[int, Origin] = {}
    scanner.expect("{")
    total = 0
    while not scanner.take_if("}"):
        start = scanner.skip_blanks()
        if scanner.take_if("scope"):
            number = _new_number(scanner, "scope", stacks)
            outer = _known(scanner, "scope", stacks) if scanner.take_if("in") else ()
            total += len(outer)
            if total > _MOST_ENTRIES + len(scanner.text):
                raise scanner.error("the scopes are nested too deeply", start)
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
    number = scanner.integer(f"the number of the {what}", MOST_DIGITS_OF_ORIGINS)
    if number in known:
        raise scanner.error(f"{what} {number} is defined twice", start)
    return number


def _known(scanner: Scanner, what: str, known: dict[int, tuple[ModuleScope, ...]]) -> tuple[ModuleScope, ...]:
    start = scanner.skip_blanks()
    number = scanner.integer(f"the number of a {what}", MOST_DIGITS_OF_ORIGINS)
    if number not in known:
        raise scanner.error(f"{what} {number} is not defined before this line", start)
    return known[number]

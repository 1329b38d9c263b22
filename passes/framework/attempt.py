"""The state of one attempt to match a compiled pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import define

from graphpress.ir.graph import Node, Value
from graphpress.passes.framework.match import Path
from graphpress.passes.framework.patterns import Op

Misfits: TypeAlias = set[tuple[Op, Node]]
"""Parts of patterns and nodes that do not fit; valid until the graph is edited."""

Mark: TypeAlias = tuple[int, int, int, int, int]


@define(eq=False, init=False)
class Attempt:
    """What a pattern has matched so far, and the choices made on the way.

    Attributes:
        misfits: what is known not to fit.
        captures: the captures, by name.
        paths: their positions in the pattern.
        nodes: the matched nodes in topological order.
        bound: the node of each `Op` object that occurs several times in the pattern.
        owned: what only matched nodes may read.
        met: the number of choices met; without any, what does not fit will never fit.
    """

    misfits: Misfits
    captures: dict[str, Any]
    paths: dict[str, Path]
    nodes: dict[Node, None]
    bound: dict[int, Node]
    owned: tuple[Node | Value, ...]
    met: int
    _choices: list[list[int]]  # of each choice what is tried, and out of how many

    def __init__(self, misfits: Misfits):
        self.misfits = misfits  # one is made for most nodes that are tried: factories would take twice the time
        self.captures, self.paths, self.nodes, self.bound = {}, {}, {}, {}
        self.owned, self.met, self._choices = (), 0, []

    def capture(self, name: str, subject: Any, path: Path) -> bool:
        """Capture `subject`, or compare it with what has that name."""
        captures = self.captures
        if name in captures:
            known = captures[name]
            return known is subject or (not isinstance(subject, Value | Node) and bool(known == subject))
        captures[name], self.paths[name] = subject, path
        return True

    def owns_all(self) -> bool:
        """True if only matched nodes read what is owned."""
        for owned in self.owned:
            for value in owned.results if isinstance(owned, Node) else (owned,):
                if any(user not in self.nodes for user, _, _ in value._uses):
                    return False
        return True

    def mark(self) -> Mark:
        """What to `undo` to."""
        return len(self.captures), len(self.paths), len(self.nodes), len(self.bound), len(self.owned)

    def undo(self, mark: Mark) -> None:
        """Drop what was added since `mark`."""
        captures, paths, nodes, bound, owned = mark
        _shorten(self.captures, captures)
        _shorten(self.paths, paths)
        _shorten(self.nodes, nodes)
        _shorten(self.bound, bound)
        self.owned = self.owned[:owned]

    # Choices. An attempt that fails is repeated with the next alternative of the last choice that has one.

    def choose(self, count: int) -> int:
        """Return which of `count` alternatives to try at the next choice."""
        place = self.met
        self.met += 1
        if place == len(self._choices):
            self._choices.append([0, count])
        return self._choices[place][0]

    def settle(self, fits: Callable[[], bool]) -> bool:
        """Repeat `fits` with other choices until it holds; False if it does for none.

        The choices are its own: those made before are kept, and these are final.
        """
        met, choices = self.met, self._choices
        self._choices, mark = [], self.mark()
        while True:
            self.met = 0
            is_met = fits()
            if is_met or not self._advance():
                break
            self.undo(mark)
        self.met, self._choices = met, choices
        return is_met

    def _advance(self) -> bool:
        choices = self._choices
        while choices:
            last = choices[-1]
            last[0] += 1
            if last[0] < last[1]:
                return True
            choices.pop()
        return False


def _shorten(table: dict[Any, Any], length: int) -> None:
    while len(table) > length:
        table.popitem()

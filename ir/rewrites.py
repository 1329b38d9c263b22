"""Which edits make one rewrite, and an end after so many.

A rewrite is the unit in which a pass may be stopped half-way, such that what it leaves is a graph that means something:
what one rule did; or, in a pass without rules, what was edited while the pass was at one node. Where a pass does not
say where it is, each edit is one, with the nodes and constants that were made for it.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from graphpress.ir.graph import Node
from graphpress.ir.location import UNKNOWN, Location


class RewriteLimitReached(BaseException):
    """Leaves a pass right before the first rewrite beyond the limit.

    Not an `Exception`, so that no pass takes it for a failure of its own.
    """


@frozen
class Rewrite:
    """One rewrite, as it was when it began.

    Attributes:
        number: from 1, in the order of the run.
        title: the rule, or what the first edit does.
        node_name, op_name, location: the node it starts from, which may be gone afterwards; empty where there is none.
    """

    number: int
    title: str
    node_name: str = ""
    op_name: str = ""
    location: Location = UNKNOWN

    def __str__(self) -> str:
        where = f" at {self.node_name} ({self.op_name})" if self.node_name else ""
        return f"rewrite {self.number}: {self.title}{where}"


def _nowhere() -> Node | None:
    return None


@define(eq=False)
class RewriteCounter:
    """Counts the rewrites of a `Rewriter`.

    Attributes:
        limit: how many may begin; None for any number.
        focus: tells the node the pass is at, None where it does not say.
        count: how many began so far.
        last: the last that began.
        listener: called with each as it begins.
    """

    limit: int | None = None
    focus: Callable[[], Node | None] = _nowhere
    count: int = 0
    last: Rewrite | None = None
    listener: Callable[[Rewrite], None] | None = None
    _rule: tuple[str, Node] | None = field(default=None, init=False)
    _is_open: bool = field(default=False, init=False)
    _common: object = field(default=None, init=False)  # what the edits of the open rewrite are about

    def begin(self, title: str, node: Node) -> None:
        """All edits until `end` are one rewrite, called `title`, that starts from `node`; none, if there are none."""
        self._rule, self._is_open = (title, node), False

    def end(self) -> None:
        """The rewrite is over."""
        self._rule, self._is_open, self._common = None, False, None

    def edit(self, title: str, node: Node | None, *, is_preparation: bool = False) -> None:
        """`node` is about to be edited. By a preparation nothing changes yet: it belongs to the edit it is made for.

        Raises:
            RewriteLimitReached: when this would be the first edit of a rewrite too many.
        """
        if self._rule is not None:
            self._open(*self._rule)
            return
        focus = self.focus()
        if focus is not None:
            self._go_on_with(focus)
        elif is_preparation:
            self._go_on_with(_PREPARING)
        elif self._common is _PREPARING:
            self._common = node
        else:
            self._go_on_with(node)
        self._open(title, focus or node)

    def _go_on_with(self, common: object) -> None:
        """Close the rewrite when what is edited now has nothing to do with it."""
        if common is None or common is not self._common:
            self._is_open, self._common = False, common

    def _open(self, title: str, node: Node | None) -> None:
        if self._is_open:
            return
        if self.limit is not None and self.count >= self.limit:
            raise RewriteLimitReached
        self.count += 1
        self._is_open = True
        at = () if node is None else (node.name, node.op.name, node.location)
        self.last = Rewrite(self.count, title, *at)
        if self.listener is not None:
            self.listener(self.last)


_PREPARING = object()

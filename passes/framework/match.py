"""What comes of trying a pattern at a node: a `Match`, or the `Miss` that says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Constant, Node, Value
from graphpress.ir.location import Location
from graphpress.passes.framework.errors import PatternError

Text = str | Callable[[], str]


@frozen(eq=False)
class Miss:
    """Why a pattern, a check or a rewrite said no. Texts are made only when asked for.

    Attributes:
        path: the place in the pattern, from its root: ``("batch_norm", "input", "weight")``.
        node: the node of the graph at that place, or the one that reads it.
        progress: how much of the pattern matched before; near misses have more.
    """

    path: tuple[str, ...]
    _expected: Text
    _found: Text
    node: Node | None = None
    progress: tuple[int, int] = (0, 0)

    @property
    def expected(self) -> str:
        """What the pattern asks for."""
        return self._expected if isinstance(self._expected, str) else self._expected()

    @property
    def found(self) -> str:
        """What is there."""
        return self._found if isinstance(self._found, str) else self._found()

    def __str__(self) -> str:
        where = "" if self.node is None else f"\n  at {self.node.name} ({self.node.op.name}), {self.node.location}"
        return f"{'.'.join(self.path)}: expected {self.expected}, found {self.found}{where}"


@frozen(eq=False)
class Match:
    """A pattern that fits.

    Attributes:
        root: the node of the pattern's root.
        nodes: all nodes of the match, each after what it reads, the root last: what `Rewriter.replace` takes.
        captures: what was named: a `Value`, a `Node` for an `Op`, a tuple for an `Each`, a Python value for an `Attr`;
            None for an optional operand that is absent.
    """

    root: Node
    nodes: tuple[Node, ...]
    captures: Mapping[str, Any]
    paths: Mapping[str, tuple[str, ...]] = field(factory=dict, repr=False)

    def __getitem__(self, name: str) -> Any:
        """What was captured as `name`; None too when it stands in an alternative that was not taken."""
        if name not in self.captures:
            raise PatternError(f"the pattern captures no {name!r}{suggestion(name, self.captures)}")
        return self.captures[name]

    def __contains__(self, name: str) -> bool:
        """True when something was captured as `name`."""
        return self.captures.get(name) is not None

    def value(self, name: str) -> Value:
        """The value captured as `name`; for a node, its only result."""
        captured = self[name]
        return captured.result if isinstance(captured, Node) else self._of_class(name, Value)

    def node(self, name: str) -> Node:
        """The node captured as `name`."""
        return self._of_class(name, Node)

    def constant(self, name: str) -> Constant:
        """The constant captured as `name`."""
        constant = self.value(name).constant
        if constant is None:
            raise PatternError(f"{name!r} was captured, but is no constant")
        return constant

    @property
    def location(self) -> Location:
        """The locations of all nodes of the match."""
        return Location.union(node.location for node in self.nodes)

    def miss(self, expected: Text, found: Text, at: str | None = None) -> Miss:
        """Say no in a check or a rewrite: what was wanted, what there is, and the capture it is about."""
        captured = None if at is None else self[at]
        node = captured if isinstance(captured, Node) else captured.node if isinstance(captured, Value) else None
        path = (self.root.op.short_name,) if at is None else self.paths.get(at, (at,))
        return Miss(path, expected, found, node or self.root, (len(self.nodes) + 1, 0))

    def _of_class(self, name: str, kind: type) -> Any:
        captured = self[name]
        if not isinstance(captured, kind):
            raise PatternError(f"{name!r} captured {captured!r}, not a {kind.__name__}")
        return captured

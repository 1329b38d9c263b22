"""The result of trying a pattern at a node: a `Match`, or the `Miss` that says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Constant, Node, Output, Value
from graphpress.ir.location import Location
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType, Type
from graphpress.passes.framework import patterns as p
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


class Absent:
    """The operand that is not there."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = Absent()


def parameter(node: Node, name: str) -> Any:
    """What `node` reads or has under `name`, the default of the schema counted; else `ABSENT`."""
    if name in node.operands:
        return node.operands[name]
    if name in node.attributes:
        return node.attributes[name]
    found = node.op.by_name.get(name)
    return ABSENT if found is None or found.is_required else found.default


def is_python_value(subject: Any) -> bool:
    """True for what an attribute may be; false for values of the graph, lists that hold some, and what is absent."""
    if isinstance(subject, tuple):
        return all(map(is_python_value, subject))
    return not isinstance(subject, Value | Absent)


def fits_literal(wanted: Any, subject: Any) -> bool:
    """True when `subject` is the Python value `wanted`. A number is no truth value, and none is complex by chance."""
    if not is_python_value(subject) or subject != wanted:
        return False
    return all(isinstance(wanted, kind) == isinstance(subject, kind) for kind in (bool, complex))


def is_commutative(node: Node) -> bool:
    """True when the first two operands of `node` may be swapped."""
    return node.op.has(Trait.COMMUTATIVE) and node.attributes.get("alpha", 1) == 1


def type_complaint(pattern: p.Any, type: Type) -> str | None:
    """What `pattern` asks of a type that `type` is not; None when it fits."""
    if not pattern.dtype and pattern.rank is None and pattern.shape is None:
        return None
    if not isinstance(type, TensorType):
        return "a tensor"
    if pattern.dtype and type.dtype not in pattern.dtype:
        return f"elements of type {' or '.join(dtype.value for dtype in pattern.dtype)}"
    if pattern.rank is not None and type.rank != pattern.rank:
        return f"{pattern.rank} axes"
    if pattern.shape is not None:
        fits = len(pattern.shape) == type.rank and all(
            wanted is None or wanted == extent for wanted, extent in zip(pattern.shape, type.shape, strict=True)
        )
        if not fits:
            return f"shape [{', '.join('any' if extent is None else str(extent) for extent in pattern.shape)}]"
    return None


def constant_complaint(pattern: p.Constant, subject: Any) -> str | None:
    """What `pattern` asks of a constant that `subject` is not; None when it fits."""
    constant = subject.constant if isinstance(subject, Value) else None
    if constant is None:
        return "a constant"
    if not constant.has_data:
        return "a constant whose data is known"
    if pattern.value is not None:
        tensor = constant.tensor
        if not tensor.numel() or not bool((tensor == pattern.value).all()):
            return f"a constant filled with {pattern.value!r}"
    return None


def show(subject: Any) -> str:
    """A value, node, list or Python value, for people."""
    if isinstance(subject, tuple):
        return f"[{', '.join(map(show, subject))}]"
    if isinstance(subject, Node):
        return f"{subject.name} ({subject.op.name})"
    if not isinstance(subject, Value):
        return repr(subject)
    if subject.node is not None:
        return f"{subject.name}: {subject.type} = {subject.node.op.name}"
    kind = "constant" if subject.constant is not None else "input"
    return f"{kind} {subject.name}: {subject.type}"


def readers(value: Value, outside: Sequence[Node | Output]) -> str:
    """Who else reads `value`."""
    names = dict.fromkeys("the graph's output" if isinstance(user, Output) else user.name for user in outside)
    return f"{value.name} read by {', '.join(names)} too"

"""The pattern language: what a piece of graph must look like."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import EllipsisType
from typing import TypeVar

import torch
from attrs import evolve, field, frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import OpDef, OpError, Trait, lookup_op, registered_ops
from graphpress.passes.framework.errors import PatternError


def check_op_name(name: str) -> None:
    """Raise when `name` has no dialect, or is an aten op that torch does not have.

    Ops of other dialects may be registered later than the pattern is written.
    """
    dialect, _, rest = name.partition(".")
    if not rest:
        raise PatternError(f"{name!r} is no op name: it needs a dialect, such as 'aten.{name}'")
    if dialect != "aten":
        return
    short, _, overload = rest.partition(".")
    packet = getattr(torch.ops.aten, short, None)
    if packet is None:
        raise PatternError(f"torch has no op {name!r}{suggestion(name, [op.name for op in registered_ops()])}")
    if overload and overload not in packet.overloads():
        known = ", ".join(packet.overloads())
        raise PatternError(f"torch has no overload {name!r}: 'aten.{short}' has {known}")


def check_parameters(name: str, positional: int, named: Mapping[str, object] | Iterable[str]) -> None:
    """Raise when no overload of `name` has so many parameters, or one of those names."""
    known = _parameters(name)
    if known is None:
        return
    most, names = known
    if positional > most:
        raise PatternError(f"{name} takes at most {most} operands and attributes, the pattern gives {positional}")
    for wanted in named:
        if wanted not in names:
            raise PatternError(
                f"{name} has no parameter {wanted!r}{suggestion(wanted, names)}; it has {', '.join(names)}"
            )


@cache
def _parameters(name: str) -> tuple[int, tuple[str, ...]] | None:
    """The largest number of parameters and all their names over the overloads; None for an op nobody knows yet."""
    dialect, short, overload = (*name.split(".", 2), "")[:3]
    if dialect == "aten":
        packet = getattr(torch.ops.aten, short)
        overloads = [overload] if overload else packet.overloads()
        schemas = [[a.name for a in getattr(packet, o)._schema.arguments if not a.is_out] for o in overloads]
        return max(map(len, schemas)), tuple(dict.fromkeys(name for schema in schemas for name in schema))
    try:
        op = lookup_op(name)
    except OpError:
        return None
    return None if op.variadic else (len(op.parameters), tuple(op.by_name))


P = TypeVar("P", bound="Pattern")
OpName = str | Trait


@frozen
class Test:
    """A predicate on what a pattern matched.

    Attributes:
        predicate: what must hold.
        expected: describes it for people.
        found: describes what is there instead; None shows what was matched.
        is_total: whether the predicate may be asked of anything, so that it can be asked before the rest is matched.
    """

    predicate: Callable[[typing.Any], bool]
    expected: str
    found: Callable[[typing.Any], str] | None = None
    is_total: bool = False


@frozen(eq=False, kw_only=True)
class Pattern:
    """Base of all patterns."""

    tests: tuple[Test, ...] = ()

    def where(self: P, predicate: Callable[[typing.Any], bool], expected: str) -> P:
        """This pattern, matching only where `predicate` holds too; `expected` describes it in a `Miss`."""
        return evolve(self, tests=(*self.tests, Test(predicate, expected)))

    def __or__(self, other: Pattern) -> OneOf:
        return OneOf(self, other)

    @property
    def parts(self) -> Iterator[Pattern]:
        """The patterns right inside this one."""
        return iter(())

    def names(self) -> Iterator[str]:
        """The names of all captures, inner ones included."""
        if (name := getattr(self, "name", None)) is not None:
            yield name
        for part in self.parts:
            yield from part.names()

    def inner_ops(self) -> Iterator[Op]:
        """All `Op`s, inner ones included."""
        if isinstance(self, Op):
            yield self
        for part in self.parts:
            yield from part.inner_ops()

    def depth(self) -> int:
        """The number of ops on the longest chain."""
        return max((part.depth() for part in self.parts), default=0)


def _dtypes(dtype: DType | Iterable[DType] | None) -> tuple[DType, ...]:
    return () if dtype is None else (dtype,) if isinstance(dtype, DType) else tuple(dtype)


@frozen(eq=False)
class Any(Pattern):
    """Any value.

    Attributes:
        name: what to capture it as.
        dtype: its element type, or several of which one must hold.
        rank: its number of axes.
        shape: its extents; None for an axis that may have any.
    """

    name: str | None = None
    dtype: tuple[DType, ...] = field(default=None, converter=_dtypes, kw_only=True)
    rank: int | None = field(default=None, kw_only=True)
    shape: tuple[int | None, ...] | None = field(default=None, kw_only=True)


@frozen(eq=False)
class Constant(Any):
    """A constant whose data is known.

    Attributes:
        unshared: whether only the matched nodes may read it, and nothing write to it: required of a constant that the
            rewrite changes.
        value: the number every element must equal.
    """

    unshared: bool = field(default=False, kw_only=True)
    value: float | None = field(default=None, kw_only=True)


@frozen(eq=False)
class Optional(Pattern):
    """An operand that may be absent; what is named inside is then captured as None."""

    pattern: Pattern

    @property
    def parts(self) -> Iterator[Pattern]:
        """The inner pattern."""
        return iter((self.pattern,))


@frozen(eq=False)
class Attr(Pattern):
    """A Python value: an attribute, or an operand that is a plain number. The default of the schema counts."""

    name: str | None = None


@frozen(eq=False, init=False)
class OneOf(Pattern):
    """What any of the alternatives matches; the first that fits is taken."""

    alternatives: tuple[Pattern, ...]

    def __init__(self, *alternatives: Pattern, tests: tuple[Test, ...] = ()):
        flat = [a for p in alternatives for a in (p.alternatives if isinstance(p, OneOf) and not p.tests else (p,))]
        self.__attrs_init__(tuple(flat), tests=tests)

    def where(self, predicate: Callable[[typing.Any], bool], expected: str) -> OneOf:
        """See `Pattern.where`."""
        return OneOf(*self.alternatives, tests=(*self.tests, Test(predicate, expected)))

    @property
    def parts(self) -> Iterator[Pattern]:
        """The alternatives."""
        return iter(self.alternatives)


@frozen(eq=False)
class Each(Pattern):
    """A list operand of any length, such as the tensors of a concat, whose every item matches `pattern`.

    `name` captures the tuple of all items; what is named inside is captured as a tuple with one entry per item.
    """

    pattern: Pattern = field(factory=Any)
    name: str | None = None
    minimum: int = field(default=1, kw_only=True)

    @property
    def parts(self) -> Iterator[Pattern]:
        """The pattern of the items."""
        return iter((self.pattern,))


@frozen(eq=False)
class Items(Pattern):
    """A list operand item by item. Write a plain list in an `Op`: ``[p, q]``; a last ``...`` lets more items be."""

    items: tuple[Pattern, ...]
    is_open: bool = False

    @property
    def parts(self) -> Iterator[Pattern]:
        """The patterns of the items."""
        return iter(self.items)


@frozen(eq=False)
class Literal(Pattern):
    """A Python value that must equal `value`. Write the plain value in an `Op`."""

    value: typing.Any


@frozen(eq=False, init=False)
class Op(Pattern):
    """A node, matched through one of its results (the first; see `result`).

    Attributes:
        ops: what the op must be: one of these names or traits.
        positional: patterns of parameters by position.
        named: patterns of parameters by name.
        name: what to capture the node as.
        single_use: whether all uses of its results must lie within the match, graph outputs not among them: required of
            a node that must be gone after the rewrite.
        is_open: whether operands that are not mentioned may be present.
    """

    ops: tuple[OpName, ...]
    positional: tuple[Pattern, ...]
    named: dict[str, Pattern]
    name: str | None
    single_use: bool
    is_open: bool
    _answers: dict[OpDef, bool] = field(factory=dict, repr=False)

    def __init__(
        self,
        op: OpName | Iterable[OpName],
        /,
        *positional: typing.Any,
        name: str | None = None,
        single_use: bool = False,
        tests: tuple[Test, ...] = (),
        **named: typing.Any,
    ):
        ops = (op,) if isinstance(op, str | Trait) else tuple(op)
        is_open = bool(positional) and positional[-1] is Ellipsis
        patterns = tuple(as_pattern(p) for p in (positional[:-1] if is_open else positional))
        for one in ops:
            if isinstance(one, str):
                check_op_name(one)
                check_parameters(one, len(patterns), named)
        by_name = {key: as_pattern(p) for key, p in named.items()}
        self.__attrs_init__(ops, patterns, by_name, name, single_use, is_open, tests=tests)

    def where(self, predicate: Callable[[typing.Any], bool], expected: str) -> Op:
        """See `Pattern.where`; the predicate gets the node."""
        return self._tested(Test(predicate, expected))

    def keeping_type(self, of: str = "self") -> Op:
        """This node where its only result is of the type of its operand `of`, element type and shape."""
        for op in self.ops:
            if isinstance(op, str):
                check_parameters(op, 0, [of])

        def keeps(node: Node) -> bool:
            operand = node.operands.get(of)
            return isinstance(operand, Value) and len(node.results) == 1 and operand.type == node.results[0].type

        def found(node: Node) -> str:
            operand = node.operands.get(of)
            read = operand.type if isinstance(operand, Value) else "nothing"
            return f"{', '.join(str(result.type) for result in node.results)} made of {read}"

        return self._tested(Test(keeps, f"one result of the type of `{of}`", found, is_total=True))

    def _tested(self, test: Test) -> Op:
        rest = (Ellipsis,) if self.is_open else ()
        return Op(
            self.ops,
            *self.positional,
            *rest,
            name=self.name,
            single_use=self.single_use,
            tests=(*self.tests, test),
            **self.named,
        )

    def result(self, index: int) -> Result:
        """This node, matched through its result number `index`."""
        return Result(self, index)

    def accepts(self, op: OpDef) -> bool:
        """True when a node of `op` may match."""
        answer = self._answers.get(op)
        if answer is None:
            answer = self._answers[op] = any(_is_op(op, wanted) for wanted in self.ops)
        return answer

    @property
    def title(self) -> str:
        """The op as people call it: ``aten.conv2d``, ``an activation op``."""
        return " or ".join(op if isinstance(op, str) else f"an op that is {op.name}" for op in self.ops)

    @property
    def parts(self) -> Iterator[Pattern]:
        """The patterns of the parameters."""
        return iter((*self.positional, *self.named.values()))

    def depth(self) -> int:
        """One more than its deepest parameter."""
        return 1 + max((part.depth() for part in self.parts), default=0)


@frozen(eq=False)
class Result(Pattern):
    """A node matched through one of its results; made by `Op.result`."""

    op: Op
    index: int

    @property
    def parts(self) -> Iterator[Pattern]:
        """The op."""
        return iter((self.op,))


def as_pattern(written: typing.Any) -> Pattern:
    """What stands in an `Op` as a pattern: lists become `Items`, plain values `Literal`.

    Raises:
        PatternError: for ``...`` anywhere but at the end.
    """
    if isinstance(written, Pattern):
        return written
    if isinstance(written, EllipsisType):
        raise PatternError("`...` comes last: it stands for all operands that are not mentioned")
    if isinstance(written, list) and any(isinstance(item, Pattern) for item in written):
        is_open = written[-1] is Ellipsis
        return Items(tuple(as_pattern(item) for item in (written[:-1] if is_open else written)), is_open)
    return Literal(tuple(written) if isinstance(written, list) else written)


def root_ops(pattern: Pattern) -> tuple[Op, ...]:
    """The `Op`s a pattern may have at its root.

    Raises:
        PatternError: when the root is no op.
    """
    if isinstance(pattern, Op):
        return (pattern,)
    if isinstance(pattern, OneOf):
        return tuple(op for alternative in pattern.alternatives for op in root_ops(alternative))
    raise PatternError(f"the root of a pattern must be an Op, not {type(pattern).__name__}")


def _is_op(op: OpDef, wanted: OpName) -> bool:
    if isinstance(wanted, Trait):
        return op.has(wanted)
    if wanted.endswith(".default"):
        return op.name == wanted.removesuffix(".default")
    return op.name == wanted or op.name.startswith(wanted + ".")

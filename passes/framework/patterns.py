"""The pattern language for subgraphs."""

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
    """Raise if `name` has no dialect, or is an ATen op that torch does not have.

    Ops of other dialects may be registered after the pattern is written.
    """
    dialect, _, rest = name.partition(".")
    if not rest:
        raise PatternError(f"{name!r} is not an op name: it needs a dialect, such as 'aten.{name}'")
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
    """Raise if no overload of `name` has that many parameters, or one of those names."""
    known = _parameters(name)
    if known is None:
        return
    most, names = known
    if positional > most:
        raise PatternError(f"{name} takes at most {most} operands and attributes, the pattern has {positional}")
    for wanted in named:
        if wanted not in names:
            raise PatternError(
                f"{name} has no parameter {wanted!r}{suggestion(wanted, names)}; it has {', '.join(names)}"
            )


@cache
def _parameters(name: str) -> tuple[int, tuple[str, ...]] | None:
    """Return the largest number of parameters and all their names over the overloads; None for an unknown op."""
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
    """Base class of patterns."""

    tests: tuple[Test, ...] = ()

    def where(self: P, predicate: Callable[[typing.Any], bool], expected: str) -> P:
        """Return this pattern with an additional predicate, described by `expected` in a `Miss`."""
        return evolve(self, tests=(*self.tests, Test(predicate, expected)))

    def __or__(self, other: Pattern) -> OneOf:
        return OneOf(self, other)

    @property
    def parts(self) -> Iterator[Pattern]:
        """Yield the direct subpatterns."""
        return iter(())

    def names(self) -> Iterator[str]:
        """Yield the names of all captures, including nested ones."""
        if (name := getattr(self, "name", None)) is not None:
            yield name
        for part in self.parts:
            yield from part.names()

    def inner_ops(self) -> Iterator[Op]:
        """Yield all `Op`s, including nested ones."""
        if isinstance(self, Op):
            yield self
        for part in self.parts:
            yield from part.inner_ops()

    def depth(self) -> int:
        """Return the number of ops on the longest chain."""
        return max((part.depth() for part in self.parts), default=0)


def _dtypes(dtype: DType | Iterable[DType] | None) -> tuple[DType, ...]:
    return () if dtype is None else (dtype,) if isinstance(dtype, DType) else tuple(dtype)


@frozen(eq=False)
class Any(Pattern):
    """Matches any value.

    Attributes:
        name: the capture name.
        dtype: the element type, or several allowed ones.
        rank: the number of axes.
        shape: the dims; None for an axis of any size.
    """

    name: str | None = None
    dtype: tuple[DType, ...] = field(default=None, converter=_dtypes, kw_only=True)
    rank: int | None = field(default=None, kw_only=True)
    shape: tuple[int | None, ...] | None = field(default=None, kw_only=True)


@frozen(eq=False)
class Constant(Any):
    """Matches a constant with known data.

    Attributes:
        unshared: require that only matched nodes read the constant and nothing writes to it, as needed by rewrites that
            change it.
        value: the number that every element must equal.
    """

    unshared: bool = field(default=False, kw_only=True)
    value: float | None = field(default=None, kw_only=True)


@frozen(eq=False)
class Optional(Pattern):
    """Matches an operand that may be absent; nested captures are then None."""

    pattern: Pattern

    @property
    def parts(self) -> Iterator[Pattern]:
        """Yield the nested pattern."""
        return iter((self.pattern,))


@frozen(eq=False)
class Attr(Pattern):
    """Matches a Python value: an attribute, its schema default, or a number as an operand."""

    name: str | None = None


@frozen(eq=False, init=False)
class OneOf(Pattern):
    """Matches the first fitting alternative."""

    alternatives: tuple[Pattern, ...]

    def __init__(self, *alternatives: Pattern, tests: tuple[Test, ...] = ()):
        flat = [a for p in alternatives for a in (p.alternatives if isinstance(p, OneOf) and not p.tests else (p,))]
        self.__attrs_init__(tuple(flat), tests=tests)

    def where(self, predicate: Callable[[typing.Any], bool], expected: str) -> OneOf:
        """Return the pattern with the predicate on each alternative; see `Pattern.where`."""
        return OneOf(*self.alternatives, tests=(*self.tests, Test(predicate, expected)))

    @property
    def parts(self) -> Iterator[Pattern]:
        """Yield the alternatives."""
        return iter(self.alternatives)


@frozen(eq=False)
class Each(Pattern):
    """Matches a list operand of any length whose items all match `pattern`, such as the tensors of a concat.

    `name` captures the tuple of all items; nested captures are tuples with one entry per item.
    """

    pattern: Pattern = field(factory=Any)
    name: str | None = None
    minimum: int = field(default=1, kw_only=True)

    @property
    def parts(self) -> Iterator[Pattern]:
        """Yield the pattern of the items."""
        return iter((self.pattern,))


@frozen(eq=False)
class Items(Pattern):
    """Matches a list operand item by item; written as a list in an `Op`, where a final ``...`` allows more items."""

    items: tuple[Pattern, ...]
    is_open: bool = False

    @property
    def parts(self) -> Iterator[Pattern]:
        """Yield the patterns of the items."""
        return iter(self.items)


@frozen(eq=False)
class Literal(Pattern):
    """Matches a Python value equal to `value`; written as the plain value in an `Op`."""

    value: typing.Any


@frozen(eq=False, init=False)
class Op(Pattern):
    """Matches a node through its first result (for other results see `result`).

    Attributes:
        ops: the accepted op names or traits.
        positional: patterns of parameters by position.
        named: patterns of parameters by name.
        name: the capture name of the node.
        single_use: require that all uses of the results are within the match and not graph outputs, as needed for nodes
            that the rewrite removes.
        is_open: allow operands that are not mentioned.
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
        """Return a pattern for this node matched through its result `index`."""
        return Result(self, index)

    def accepts(self, op: OpDef) -> bool:
        """Return True if nodes of `op` may match."""
        answer = self._answers.get(op)
        if answer is None:
            answer = self._answers[op] = any(_is_op(op, wanted) for wanted in self.ops)
        return answer

    @property
    def title(self) -> str:
        """Return the op for messages: ``aten.conv2d``, ``an activation op``."""
        return " or ".join(op if isinstance(op, str) else f"an op that is {op.name}" for op in self.ops)

    @property
    def parts(self) -> Iterator[Pattern]:
        """Yield the patterns of the parameters."""
        return iter((*self.positional, *self.named.values()))

    def depth(self) -> int:
        """Return one more than the depth of the deepest parameter."""
        return 1 + max((part.depth() for part in self.parts), default=0)


@frozen(eq=False)
class Result(Pattern):
    """Matches a node through one of its results; made by `Op.result`."""

    op: Op
    index: int

    @property
    def parts(self) -> Iterator[Pattern]:
        """Yield the op."""
        return iter((self.op,))


def as_pattern(written: typing.Any) -> Pattern:
    """Convert an argument of `Op` to a pattern: lists to `Items`, plain values to `Literal`.

    Raises:
        PatternError: if ``...`` is not at the end.
    """
    if isinstance(written, Pattern):
        return written
    if isinstance(written, EllipsisType):
        raise PatternError("`...` must come last: it allows all operands that are not mentioned")
    if isinstance(written, list) and any(isinstance(item, Pattern) for item in written):
        is_open = written[-1] is Ellipsis
        return Items(tuple(as_pattern(item) for item in (written[:-1] if is_open else written)), is_open)
    return Literal(tuple(written) if isinstance(written, list) else written)


def root_ops(pattern: Pattern) -> tuple[Op, ...]:
    """Return the `Op`s possible at the root of a pattern.

    Raises:
        PatternError: if the root is not an op.
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

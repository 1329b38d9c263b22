"""What a graph is made of: values with their uses, and the inputs, constants, nodes and outputs around them.

Everything a node reads is an object (`Value`), never a name, so renaming can break nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from attrs import define, field

from graphpress.ir.errors import GraphpressError
from graphpress.ir.location import UNKNOWN, Location
from graphpress.ir.ops import OpDef
from graphpress.ir.types import TensorType, Type

if TYPE_CHECKING:
    from graphpress.ir.graph import Graph

A = TypeVar("A")

Scalar = None | bool | int | float | str


class GraphError(GraphpressError):
    """A structural edit that would leave a graph inconsistent."""


@define(eq=False)
class Use:
    """One place that reads a value: a node's operand (an index inside a list operand), or a graph output."""

    user: Node | Output
    operand: str
    index: int | None = None


@define(eq=False, repr=False, weakref_slot=False)  # there are many: with one more slot they take a quarter more
class Value:
    """One SSA value: a type, the thing that defines it, and the uses that read it."""

    type: Type
    producer: Node | Input | Constant
    index: int = 0
    _uses: dict[tuple[int, str, int | None], Use] = field(factory=dict, init=False)

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every use, in the order in which it was made."""
        return tuple(self._uses.values())

    @property
    def use_count(self) -> int:
        """The number of uses; an operand read twice by one node counts twice."""
        return len(self._uses)

    @property
    def users(self) -> list[Node]:
        """The nodes that read this value, each once."""
        return list(dict.fromkeys(use.user for use in self._uses.values() if isinstance(use.user, Node)))

    @property
    def node(self) -> Node | None:
        """The node that computes this value; None for inputs and constants."""
        return self.producer if isinstance(self.producer, Node) else None

    @property
    def constant(self) -> Constant | None:
        """The constant this value is; None for anything computed or fed."""
        return self.producer if isinstance(self.producer, Constant) else None

    @property
    def is_output(self) -> bool:
        """True when the graph itself returns this value."""
        return any(isinstance(use.user, Output) for use in self._uses.values())

    @property
    def tensor_type(self) -> TensorType:
        """The type, for values that must be tensors."""
        if not isinstance(self.type, TensorType):
            raise GraphError(f"{self.name} is {self.type}, not a tensor")
        return self.type

    @property
    def is_floating(self) -> bool:
        """True for a tensor of floats of any width."""
        return isinstance(self.type, TensorType) and self.type.dtype.is_floating

    @property
    def name(self) -> str:
        """The producer's name; ``#i`` is appended for one of several results."""
        if isinstance(self.producer, Node) and len(self.producer.results) > 1:
            return f"{self.producer.name}#{self.index}"
        return self.producer.name

    def __repr__(self) -> str:
        return f"<{self.name}: {self.type}>"


@define(eq=False, repr=False)
class Input:
    """A graph input. One that is always the same Python value (`None`, a number) has that as `literal` and no
    value."""

    name: str
    value: Value | None = None
    literal: Scalar = None

    def __repr__(self) -> str:
        return f"<input {self.name}>"


@define(eq=False, repr=False)
class Constant:
    """A tensor the graph owns.

    `names` are all the qualified names it has in the model, so tied weights are one constant with several names.
    `kind` is ``parameter``, ``buffer`` or ``literal``; a parameter is `frozen` when training leaves it alone. `tensor`
    is None in a graph read from text without its data; `digest` then holds the hash the text gave.
    """

    name: str
    kind: str
    names: tuple[str, ...] = ()
    persistent: bool = True
    _tensor: torch.Tensor | None = None
    digest: str | None = None
    frozen: bool = False
    value: Value = field(init=False)
    _found_good: Any = field(default=None, init=False)  # what the verifier held against the type last

    @property
    def tensor(self) -> torch.Tensor:
        """The data."""
        if self._tensor is None:
            raise GraphError(
                f"constant {self.name!r} has no data: its graph was read without the safetensors beside it"
            )
        return self._tensor

    @property
    def has_data(self) -> bool:
        """False when only type and hash are known."""
        return self._tensor is not None

    @property
    def type(self) -> TensorType:
        """Element type and shape. Sub-byte codes have their own type here and a container's dtype in `tensor`."""
        return self.value.tensor_type

    @property
    def is_trainable(self) -> bool:
        """True for a parameter that gets gradients in the model."""
        dtype = self.type.dtype.torch_dtype
        return self.kind == "parameter" and not self.frozen and (dtype.is_floating_point or dtype.is_complex)

    @property
    def is_mutated(self) -> bool:
        """True for a buffer that running the graph writes to."""
        return any(isinstance(u.user, Output) and u.operand == "target" for u in self.value._uses.values())

    def __repr__(self) -> str:
        return f"<constant {self.name}: {self.value.type}>"


@define(eq=False, repr=False)
class Node:
    """One operation: operands by schema name, attributes (everything that is not a value), results, location."""

    name: str
    op: OpDef
    operands: Mapping[str, Any] = field(factory=dict)
    attributes: dict[str, Any] = field(factory=dict)
    results: tuple[Value, ...] = ()
    location: Location = UNKNOWN
    annotations: dict[type, Any] = field(factory=dict)
    graph: Graph | None = None
    _previous: Node | None = None
    _next: Node | None = None
    _found_good: Any = field(default=None, init=False)  # the state the verifier found good last

    @property
    def result(self) -> Value:
        """The only result."""
        if len(self.results) != 1:
            raise GraphError(f"{self.name} ({self.op.name}) has {len(self.results)} results, not one")
        return self.results[0]

    def operand(self, name: str) -> Value | None:
        """The single value under `name`; None when it is absent or not a value."""
        operand = self.operands.get(name)
        return operand if isinstance(operand, Value) else None

    def attribute(self, name: str) -> Any:
        """The attribute `name`, or the default of the op's schema."""
        if name in self.attributes:
            return self.attributes[name]
        return self.op.default(name)

    def operand_values(self) -> Iterator[tuple[str, int | None, Value]]:
        """Every value read, as (operand name, index inside a list operand or None, value)."""
        return values_in(self.operands)

    def annotation(self, kind: type[A]) -> A | None:
        """The annotation of class `kind`, if there is one."""
        return self.annotations.get(kind)

    @property
    def is_dead(self) -> bool:
        """True when nothing reads its results and it has no effect of its own."""
        return self.op.is_pure and not any(result._uses for result in self.results)

    def __repr__(self) -> str:
        return f"<{self.name} = {self.op.name}>"


@define(eq=False, repr=False)
class Output:
    """Something a run of the graph leaves behind.

    `kind` is ``user`` (returned), ``buffer_mutation`` or ``input_mutation`` (written to `target`, a constant's or
    an input's value). A returned Python value is a `literal` without `value`.
    """

    kind: str = "user"
    value: Value | None = None
    literal: Scalar = None
    target: Value | None = None

    @property
    def name(self) -> str:
        """How error messages call it."""
        return f"{self.kind} output"


def values_in(operands: Mapping[str, Any]) -> Iterator[tuple[str, int | None, Value]]:
    """Every value among `operands`, as (operand name, index inside a list operand or None, value)."""
    for name, operand in operands.items():
        if isinstance(operand, Value):
            yield name, None, operand
        elif isinstance(operand, tuple):
            for index, item in enumerate(operand):
                if isinstance(item, Value):
                    yield name, index, item

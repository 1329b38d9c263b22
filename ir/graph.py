"""The IR: a mutable graph of typed SSA values with explicit use lists."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from attrs import define, evolve, field, frozen
from numpy.typing import NDArray

from graphpress.ir.collector import holding_collector
from graphpress.ir.errors import GraphpressError
from graphpress.ir.location import UNKNOWN, Location
from graphpress.ir.ops import OpDef
from graphpress.ir.types import Symbol, TensorType, Type

A = TypeVar("A")

Scalar = None | bool | int | float | str


class GraphError(GraphpressError):
    """A structural edit that would make a graph inconsistent."""


class Use(NamedTuple):
    """One read of a value: a node's operand (with an index inside a list operand), or a graph output."""

    user: Node | Output
    operand: str
    index: int | None = None  # type: ignore[assignment]  # hides `tuple.index`


UseKey = tuple["Node | Output", str, int | None]
"""A use as a plain tuple, which is equal to the `Use` and made in a third of its time."""


@define(eq=False, repr=False, weakref_slot=False)  # many instances: a slot adds a quarter to their size
class Value:
    """One SSA value: its type, its producer, and its uses."""

    type: Type
    producer: Node | Input | Constant
    index: int = 0
    _uses: dict[UseKey, None] = field(factory=dict, init=False)

    @property
    def uses(self) -> tuple[Use, ...]:
        """All uses, in creation order."""
        return tuple(map(Use._make, self._uses))

    @property
    def use_count(self) -> int:
        """The number of uses; an operand read twice by one node counts twice."""
        return len(self._uses)

    @property
    def users(self) -> list[Node]:
        """The nodes that read this value, each once."""
        return list(dict.fromkeys([user for user, _, _ in self._uses if isinstance(user, Node)]))

    @property
    def node(self) -> Node | None:
        """The node that computes this value, or None for inputs and constants."""
        return self.producer if isinstance(self.producer, Node) else None

    @property
    def constant(self) -> Constant | None:
        """The constant that owns this value, or None for inputs and node results."""
        return self.producer if isinstance(self.producer, Constant) else None

    @property
    def is_output(self) -> bool:
        """True if the graph returns this value."""
        return any(isinstance(user, Output) for user, _, _ in self._uses)

    @property
    def tensor_type(self) -> TensorType:
        """The type of a tensor value.

        Raises:
            GraphError: if the value is not a tensor.
        """
        if not isinstance(self.type, TensorType):
            raise GraphError(f"{self.name} is {self.type}, not a tensor")
        return self.type

    @property
    def is_floating(self) -> bool:
        """True for a tensor of any floating element type."""
        return isinstance(self.type, TensorType) and self.type.dtype.is_floating

    @property
    def name(self) -> str:
        """The producer's name, with ``#i`` appended for one of several results."""
        if isinstance(self.producer, Node) and len(self.producer.results) > 1:
            return f"{self.producer.name}#{self.index}"
        return self.producer.name

    def __repr__(self) -> str:
        return f"<{self.name}: {self.type}>"


@define(eq=False, repr=False)
class Input:
    """A graph input: a value, or a Python constant (`None`, a number) in `literal` without a value."""

    name: str
    value: Value | None = None
    literal: Scalar = None

    def __repr__(self) -> str:
        return f"<input {self.name}>"


@define(eq=False, repr=False)
class Constant:
    """A tensor owned by the graph.

    `names` are all the qualified names it has in the model, so tied weights are one constant with several names. `kind`
    is ``parameter``, ``buffer`` or ``literal``; a parameter is `frozen` when training leaves it alone. `tensor` is None
    in a graph read from text without its data; `digest` then holds the hash the text gave.
    """

    name: str
    kind: str
    names: tuple[str, ...] = ()
    persistent: bool = True
    _tensor: torch.Tensor | None = None
    digest: str | None = None
    frozen: bool = False
    value: Value = field(init=False)
    _verified_state: Any = field(default=None, init=False)  # the type and data that the verifier accepted last

    @property
    def tensor(self) -> torch.Tensor:
        """The data.

        Raises:
            GraphError: if the graph was read without data.
        """
        if self._tensor is None:
            raise GraphError(
                f"constant {self.name!r} has no data: its graph was read without the safetensors beside it"
            )
        return self._tensor

    @property
    def has_data(self) -> bool:
        """False if only type and hash are known."""
        return self._tensor is not None

    @property
    def type(self) -> TensorType:
        """Element type and shape; sub-byte codes keep their own type here and a container dtype in `tensor`."""
        return self.value.tensor_type

    @property
    def is_trainable(self) -> bool:
        """True for a parameter that receives gradients in the model."""
        dtype = self.type.dtype.torch_dtype
        return self.kind == "parameter" and not self.frozen and (dtype.is_floating_point or dtype.is_complex)

    @property
    def is_mutated(self) -> bool:
        """True for a buffer that the graph writes to."""
        return any(isinstance(user, Output) and operand == "target" for user, operand, _ in self.value._uses)

    def __repr__(self) -> str:
        return f"<constant {self.name}: {self.value.type}>"


@define(eq=False, repr=False)
class Node:
    """One operation: operands by schema name, attributes (all non-value arguments), results and location."""

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
    _verified_state: Any = field(default=None, init=False)  # the state that the verifier accepted last

    @property
    def result(self) -> Value:
        """The only result.

        Raises:
            GraphError: if the node does not have exactly one result.
        """
        if len(self.results) != 1:
            raise GraphError(f"{self.name} ({self.op.name}) has {len(self.results)} results, not one")
        return self.results[0]

    def operand(self, name: str) -> Value | None:
        """Return the single value under `name`, or None if it is absent or not a value."""
        operand = self.operands.get(name)
        return operand if isinstance(operand, Value) else None

    def attribute(self, name: str) -> Any:
        """Return the attribute `name`, or its default in the op's schema."""
        if name in self.attributes:
            return self.attributes[name]
        return self.op.default(name)

    def operand_values(self) -> Iterator[tuple[str, int | None, Value]]:
        """Yield every value read, as (operand name, index inside a list operand or None, value)."""
        return values_in(self.operands)

    def annotation(self, kind: type[A]) -> A | None:
        """Return the annotation of class `kind`, or None."""
        return self.annotations.get(kind)

    @property
    def is_dead(self) -> bool:
        """True if the results are unused and the op has no side effect."""
        for result in self.results:  # no generator: asked of every node that a rewrite may leave unused
            if result._uses:
                return False
        return self.op.is_pure

    def __repr__(self) -> str:
        return f"<{self.name} = {self.op.name}>"


@define(eq=False, repr=False)
class Output:
    """A result of a graph: a returned value or a write to a buffer or input.

    `kind` is ``user`` (returned), ``buffer_mutation`` or ``input_mutation`` (written to `target`, a constant's or an
    input's value). A returned Python value is a `literal` without `value`.
    """

    kind: str = "user"
    value: Value | None = None
    literal: Scalar = None
    target: Value | None = None

    @property
    def name(self) -> str:
        """The name used in error messages."""
        return f"{self.kind} output"


def values_in(operands: Mapping[str, Any]) -> Iterator[tuple[str, int | None, Value]]:
    """Yield every value in `operands`, as (operand name, index inside a list operand or None, value)."""
    for name, operand in operands.items():
        if isinstance(operand, Value):
            yield name, None, operand
        elif isinstance(operand, tuple):
            for index, item in enumerate(operand):
                if isinstance(item, Value):
                    yield name, index, item


@frozen(eq=False)
class OpIndex:
    """A snapshot of the nodes in execution order, indexed by op."""

    nodes: tuple[Node, ...]
    ops: tuple[OpDef, ...]
    numbers: NDArray[np.int32]

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> OpIndex:
        """Build the index in one traversal."""
        nodes, known = tuple(nodes), dict[OpDef, int]()
        numbers = [known.setdefault(node.op, len(known)) for node in nodes]
        return cls(nodes, tuple(known), np.array(numbers, np.int32))

    def select(self, wanted: Callable[[OpDef], object]) -> list[Node]:
        """Return the nodes whose op satisfies `wanted`, in execution order; each op is tested once."""
        is_wanted = np.array([bool(wanted(op)) for op in self.ops], np.bool_)
        return [self.nodes[place] for place in np.flatnonzero(is_wanted[self.numbers]).tolist()]


__all__ = [
    "Constant",
    "Graph",
    "GraphError",
    "Input",
    "Node",
    "NodeList",
    "Output",
    "Scalar",
    "Signature",
    "Use",
    "Value",
]


@define(eq=False, repr=False)
class Graph:
    """A whole model as nodes in execution order, with inputs, outputs and constants.

    `signature` holds the pytree specs of the original arguments and return values.
    """

    name: str = "main"
    inputs: list[Input] = field(factory=list)
    outputs: list[Output] = field(factory=list)
    constants: dict[str, Constant] = field(factory=dict)
    symbols: dict[str, Symbol] = field(factory=dict)
    signature: Signature | None = None
    _first: Node | None = None
    _last: Node | None = None
    _count: int = 0
    _op_counts: dict[OpDef, int] = field(factory=dict)
    _names: set[str] = field(factory=set)
    _suffixes: dict[str, int] = field(factory=dict)
    _op_index: OpIndex | None = field(default=None, init=False)  # invalidated when a node is added or erased

    # Reading.

    @property
    def nodes(self) -> NodeList:
        """The nodes in execution order: iterable, sized, reversible; erasing the current node is safe."""
        return NodeList(self)

    def nodes_of(self, wanted: Callable[[OpDef], object]) -> Iterator[Node]:
        """Yield the nodes whose op satisfies `wanted`, in execution order.

        Nodes erased before their turn are skipped, and nodes made during the iteration are not visited. The first call
        after an insertion or erasure traverses the graph; later calls visit only the nodes returned.
        """
        if self._op_index is None:
            self._op_index = OpIndex.of(self.nodes)
        return (node for node in self._op_index.select(wanted) if node.graph is self)

    @property
    def ops(self) -> KeysView[OpDef]:
        """The ops of the nodes, each once; kept while the graph is edited, so that asking costs no walk."""
        return self._op_counts.keys()

    def node(self, name: str) -> Node:
        """Return the node called `name`.

        Raises:
            GraphError: if there is no such node.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise GraphError(f"graph {self.name!r} has no node {name!r}")

    def user_outputs(self) -> list[Output]:
        """Return the flat outputs of the model, without mutations."""
        return [output for output in self.outputs if output.kind == "user"]

    def values(self) -> Iterator[Value]:
        """Yield every value: inputs, constants, results."""
        yield from (i.value for i in self.inputs if i.value is not None)
        yield from (constant.value for constant in self.constants.values())
        for node in self.nodes:
            yield from node.results

    # Building.

    def fresh_name(self, hint: str) -> str:
        """Reserve and return an unused node or input name that starts with `hint`."""
        name, names = hint, self._names
        if name in names:
            head, _, tail = hint.rpartition("_")
            base = head if head and tail.isdigit() else hint
            suffix = self._suffixes.get(base, 0)
            while name in names:
                suffix += 1
                name = f"{base}_{suffix}"
            self._suffixes[base] = suffix
        names.add(name)
        return name

    def add_input(self, name: str, type: Type | None = None, literal: Scalar = None) -> Input:
        """Append an input of `type`, or, without a type, the Python constant `literal`."""
        graph_input = Input(self.fresh_name(name), literal=literal)
        if type is not None:
            graph_input.value = Value(type, graph_input)
        self.inputs.append(graph_input)
        return graph_input

    def add_constant(
        self,
        name: str,
        tensor: torch.Tensor | None,
        kind: str = "parameter",
        names: Sequence[str] | None = None,
        *,
        type: TensorType | None = None,
        persistent: bool = True,
        digest: str | None = None,
        frozen: bool | None = None,
    ) -> Constant:
        """Add `tensor` as a constant called `name`, made unique.

        `type` is required for codes in a wider container. The default of `frozen` is derived from the tensor.
        """
        unique, suffix = name, 0
        while unique in self.constants:
            suffix += 1
            unique = f"{name}_{suffix}"
        if names is None:
            names = () if kind == "literal" else (unique,)
        if frozen is None:
            frozen = kind == "parameter" and isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad
        constant = Constant(unique, kind, tuple(names), persistent, tensor, digest, frozen)
        if type is None:
            if tensor is None:
                raise GraphError(f"constant {name!r} needs a type or a tensor")
            type = TensorType.of(tensor)
        constant.value = Value(type, constant)
        self.constants[unique] = constant
        return constant

    def insert(
        self,
        op: OpDef,
        operands: Mapping[str, Any],
        attributes: Mapping[str, Any],
        types: Iterable[Type],
        *,
        name: str | None = None,
        location: Location = UNKNOWN,
        before: Node | None = None,
    ) -> Node:
        """Insert a node before `before`, or at the end.

        Types are not inferred and nothing is checked; see `Rewriter.insert_before`.
        """
        read: dict[str, Any] = {}
        node = Node(self.fresh_name(name or op.short_name), op, read, dict(attributes), (), location, {}, self)
        node.results = tuple([Value(type, node, index) for index, type in enumerate(types)])
        self._link(node, before)
        for operand_name, operand in operands.items():
            if isinstance(operand, Value):
                read[operand_name] = operand
                operand._uses[node, operand_name, None] = None
            else:
                self.set_operand(node, operand_name, operand)
        return node

    def add_output(
        self, value: Value | None, kind: str = "user", literal: Scalar = None, target: Value | None = None
    ) -> Output:
        """Append an output."""
        output = Output(kind, literal=literal)
        self.set_output(output, value)
        if target is not None:
            output.target = target
            target._uses[output, "target", None] = None
        self.outputs.append(output)
        return output

    # Editing.

    def set_operand(self, node: Node, name: str, operand: Any) -> None:
        """Set the operand `name` of `node` to `operand` (a value, a list, or None to remove it)."""
        operands: dict[str, Any] = node.operands  # type: ignore[assignment]
        held = operands.pop(name, None) if operand is None else operands.get(name)
        if isinstance(held, Value):
            del held._uses[node, name, None]
        elif isinstance(held, tuple):
            for index, item in enumerate(held):
                if isinstance(item, Value):
                    del item._uses[node, name, index]
        if isinstance(operand, Value):
            operands[name] = operand
            operand._uses[node, name, None] = None
        elif operand is not None:
            operands[name] = operand = tuple(operand) if isinstance(operand, list) else operand
            for index, item in enumerate(operand if isinstance(operand, tuple) else ()):
                if isinstance(item, Value):
                    item._uses[node, name, index] = None

    def set_output(self, output: Output, value: Value | None) -> None:
        """Set the value that `output` returns or writes."""
        if output.value is not None:
            del output.value._uses[output, "value", None]
        output.value = value
        if value is not None:
            value._uses[output, "value", None] = None

    def replace_uses(self, old: Value, new: Value, *, where: Callable[[Use], bool] | None = None) -> int:
        """Redirect the uses of `old` that `where` accepts to `new`, and return their number.

        Mutation targets are not changed.
        """
        return len(self._move_uses(old, new, where))

    def _move_uses(self, old: Value, new: Value, where: Callable[[Use], bool] | None = None) -> list[UseKey]:
        """Redirect the uses of `old` that `where` accepts, but for mutation targets, to `new`, and return them."""
        before, after = old._uses, new._uses
        moved: list[UseKey] = list(before) if where is None else [use for use in old.uses if where(use)]
        lists: dict[tuple[Node, str], list[Any]] = {}  # each list operand is rebuilt once, however often it reads `old`
        items: list[Any] = []
        owner: Node | Output | None = None
        has_targets, in_operand = False, ""
        for user, operand, index in moved:
            if isinstance(user, Output):
                if operand == "target":
                    has_targets = True
                else:
                    user.value = new
            elif index is None:
                user.operands[operand] = new  # type: ignore[index]
            else:
                if user is not owner or operand != in_operand:
                    owner, in_operand = user, operand
                    items = lists.get((user, operand)) or lists.setdefault((user, operand), [*user.operands[operand]])
                items[index] = new
        for (node, name), operands in lists.items():
            node.operands[name] = tuple(operands)  # type: ignore[index]
        if has_targets:
            moved = [key for key in moved if key[1] != "target" or isinstance(key[0], Node)]
        if old is not new:
            if len(moved) == len(before):
                after |= before  # as a whole: no hash is computed again
                before.clear()
            else:
                for key in moved:
                    del before[key]
                    after[key] = None
        return moved

    def erase(self, node: Node) -> None:
        """Remove a node without uses.

        Raises:
            GraphError: if a result of the node is still used.
        """
        for result in node.results:
            if result._uses:
                user, _, _ = next(iter(result._uses))
                raise GraphError(f"cannot erase {node.name}: {user.name} still reads it")
        for name, operand in node.operands.items():
            if isinstance(operand, Value):
                del operand._uses[node, name, None]
            elif isinstance(operand, tuple):
                for index, item in enumerate(operand):
                    if isinstance(item, Value):
                        del item._uses[node, name, index]
        node.operands = {}
        before, after = node._previous, node._next
        if before is None:
            self._first = after
        else:
            before._next = after
        if after is None:
            self._last = before
        else:
            after._previous = before
        # `node._next` is kept, so that an iteration at the erased node can continue.
        node.graph = self._op_index = None
        self._count -= 1
        counts, op = self._op_counts, node.op
        if counts[op] == 1:
            del counts[op]
        else:
            counts[op] -= 1
        self._names.discard(node.name)

    def erase_constant(self, constant: Constant) -> None:
        """Remove a constant without uses.

        Raises:
            GraphError: if the constant is still used.
        """
        if constant.value._uses:
            raise GraphError(f"cannot erase constant {constant.name!r}: it is still read")
        del self.constants[constant.name]

    def _link(self, node: Node, before: Node | None) -> None:
        if before is not None and before.graph is not self:
            raise GraphError(f"{before.name} is not in graph {self.name!r}")
        node._next = before
        node._previous = self._last if before is None else before._previous
        if node._previous is None:
            self._first = node
        else:
            node._previous._next = node
        if before is None:
            self._last = node
        else:
            before._previous = node
        self._op_index = None
        self._count += 1
        self._op_counts[node.op] = self._op_counts.get(node.op, 0) + 1

    # Whole graphs.

    def clone(self) -> Graph:
        """Return a copy with the same structure; constant tensors are shared."""
        return clone(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        return _above("pickling").deepcopy_graph(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _above("pickling").reduce_graph(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and _above("equality").difference(self, other) is None

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return _above("text.printer").print_graph(self)

    def __repr__(self) -> str:
        return f"<graph {self.name}: {self._count} nodes>"


def _above(name: str) -> Any:
    """Import an attribute of an IR module that itself imports this one, for convenience methods."""
    return importlib.import_module(f"graphpress.ir.{name}")


@define
class Signature:
    """The nesting of the flat inputs and outputs in the user's call.

    `argument_names` names the flat inputs' top-level parameters; the specs are torch's serialized pytree specs.
    """

    argument_names: tuple[str, ...]
    in_spec: str
    out_spec: str


class NodeList(Sequence[Node]):
    """A view of the nodes of a graph in execution order."""

    def __init__(self, graph: Graph):
        self._graph = graph

    def __len__(self) -> int:
        return self._graph._count

    def __iter__(self) -> Iterator[Node]:
        node = self._graph._first
        while node is not None:
            yield node
            node = node._next
            while node is not None and node.graph is None:  # the current node was erased
                node = node._next

    def __reversed__(self) -> Iterator[Node]:
        node = self._graph._last
        while node is not None:
            previous = node._previous
            yield node
            node = previous
            while node is not None and node.graph is None:
                node = node._previous

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Node) and node.graph is self._graph

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]


def nested_graphs(graph: Graph) -> Iterator[Graph]:
    """Yield `graph` itself, then every graph in the attributes of its nodes, at any depth."""
    yield graph
    pending = [_bodies_in(graph)]  # no recursion: graphs may nest deeper than Python's stack
    while pending:
        body = next(pending[-1], None)
        if body is None:
            pending.pop()
        else:
            yield body
            pending.append(_bodies_in(body))


def _bodies_in(graph: Graph) -> Iterator[Graph]:
    return (body for node in graph.nodes for body in bodies(node))


def bodies(node: Node) -> Iterator[Graph]:
    """Yield the graphs in the attributes of `node`, including those in tuples and dictionaries, but not their nested
    graphs.
    """
    for value in node.attributes.values():
        yield from _graphs_in(value)


def all_constants(graph: Graph) -> Iterator[Constant]:
    """Yield the constants of `graph` and of its nested graphs."""
    for inner in nested_graphs(graph):
        yield from inner.constants.values()


def _graphs_in(value: Any) -> Iterator[Graph]:
    if isinstance(value, Graph):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _graphs_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _graphs_in(item)


@holding_collector
def clone(graph: Graph) -> Graph:
    """Copy a graph with its structure, names, locations and annotations; constant tensors are shared."""
    whole = Graph()
    pending = [(graph, whole)]  # no recursion: graphs may nest deeper than Python's stack
    while pending:
        _fill(*pending.pop(), pending)
    return whole


def _fill(graph: Graph, copy: Graph, pending: list[tuple[Graph, Graph]]) -> None:
    """Make `copy` a copy of `graph`; nested graphs become empty ones, which are added to `pending`."""
    copy.name, copy.symbols = graph.name, dict(graph.symbols)
    copy.signature = None if graph.signature is None else evolve(graph.signature)
    values: dict[int, Value] = {}
    for graph_input in graph.inputs:
        new_input = Input(copy.fresh_name(graph_input.name), literal=graph_input.literal)
        if graph_input.value is not None:
            new_input.value = values[id(graph_input.value)] = Value(graph_input.value.type, new_input)
        copy.inputs.append(new_input)
    for constant in graph.constants.values():
        new = Constant(
            constant.name,
            constant.kind,
            constant.names,
            constant.persistent,
            constant._tensor,
            constant.digest,
            constant.frozen,
        )
        new.value = values[id(constant.value)] = Value(constant.type, new)
        copy.constants[new.name] = new

    def moved(operand: Any) -> Any:
        if isinstance(operand, Value):
            return values[id(operand)]
        return tuple(map(moved, operand)) if isinstance(operand, tuple) else operand

    for node in graph.nodes:
        operands = {name: moved(operand) for name, operand in node.operands.items()}
        attributes = {name: _cloned(attribute, pending) for name, attribute in node.attributes.items()}
        types = (result.type for result in node.results)
        made = copy.insert(node.op, operands, attributes, types, name=node.name, location=node.location)
        made.annotations = dict(node.annotations)
        for old, result in zip(node.results, made.results, strict=True):
            values[id(old)] = result
    for output in graph.outputs:
        _copy_output(output, copy, values)


def _cloned(attribute: Any, pending: list[tuple[Graph, Graph]]) -> Any:
    """Return `attribute` with an empty graph for every graph in it; both are added to `pending`."""
    if isinstance(attribute, Graph):
        copy = Graph()
        pending.append((attribute, copy))
        return copy
    if isinstance(attribute, tuple | list) and any(map(_is_structure, attribute)):
        return type(attribute)([_cloned(item, pending) for item in attribute])
    if isinstance(attribute, dict):
        return {key: _cloned(item, pending) for key, item in attribute.items()}
    return attribute


def _is_structure(item: Any) -> bool:
    return isinstance(item, Graph | tuple | list | dict)


def _copy_output(output: Output, copy: Graph, values: dict[int, Value]) -> None:
    value = None if output.value is None else values[id(output.value)]
    target = None if output.target is None else values[id(output.target)]
    copy.add_output(value, output.kind, output.literal, target)

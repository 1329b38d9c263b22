"""The IR: a mutable graph of typed SSA values with explicit use lists.

`Graph` owns inputs, constants, an ordered list of nodes, and outputs. Edit a graph through
`graphpress.ir.Rewriter`; the methods here that change structure keep the use lists right and nothing more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import define, field

from graphpress.ir.dims import Symbol
from graphpress.ir.location import UNKNOWN, Location
from graphpress.ir.op_index import OpIndex
from graphpress.ir.ops import OpDef
from graphpress.ir.types import TensorType, Type
from graphpress.ir.values import Constant, GraphError, Input, Node, Output, Scalar, Use, Value, values_in

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
    """A whole model. `signature` holds the pytree specs of the original call and return values."""

    name: str = "main"
    inputs: list[Input] = field(factory=list)
    outputs: list[Output] = field(factory=list)
    constants: dict[str, Constant] = field(factory=dict)
    symbols: dict[str, Symbol] = field(factory=dict)
    signature: Signature | None = None
    _first: Node | None = None
    _last: Node | None = None
    _count: int = 0
    _names: set[str] = field(factory=set)
    _suffixes: dict[str, int] = field(factory=dict)
    _op_index: OpIndex | None = field(default=None, init=False)  # until a node comes or goes

    # reading

    @property
    def nodes(self) -> NodeList:
        """The nodes in execution order: iterable, sized, reversible. Safe against erasing the node just visited."""
        return NodeList(self)

    def nodes_of(self, wanted: Callable[[OpDef], object]) -> Iterator[Node]:
        """The nodes whose op is `wanted`, in execution order, those erased before their turn left out.

        Nodes made during the iteration are not visited. The first call after a node came or went walks the graph;
        later ones touch only what they return.
        """
        if self._op_index is None:
            self._op_index = OpIndex.of(self.nodes)
        return (node for node in self._op_index.select(wanted) if node.graph is self)

    def node(self, name: str) -> Node:
        """The node called `name`."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise GraphError(f"graph {self.name!r} has no node {name!r}")

    def user_outputs(self) -> list[Output]:
        """What the model returns, flattened."""
        return [output for output in self.outputs if output.kind == "user"]

    def values(self) -> Iterator[Value]:
        """Every value: inputs, constants, results."""
        yield from (i.value for i in self.inputs if i.value is not None)
        yield from (constant.value for constant in self.constants.values())
        for node in self.nodes:
            yield from node.results

    # building

    def fresh_name(self, hint: str) -> str:
        """A node or input name that is not taken, and is now."""
        name, base = hint, hint
        if name in self._names:
            head, _, tail = hint.rpartition("_")
            base = head if head and tail.isdigit() else hint
            for suffix in itertools.count(self._suffixes.get(base, 0) + 1):
                name = f"{base}_{suffix}"
                if name not in self._names:
                    self._suffixes[base] = suffix
                    break
        self._names.add(name)
        return name

    def add_input(self, name: str, type: Type | None = None, literal: Scalar = None) -> Input:
        """Append an input: a value of `type`, or, without one, the fixed Python value `literal`."""
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
        """Own `tensor` under `name` (made unique).

        `type` is given for codes in a wider container. Whether a parameter is `frozen` is asked of the tensor.
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
        """Make a node before `before`, or at the end. No inference, no checks: see `Rewriter.insert_before`."""
        node = Node(
            self.fresh_name(name or op.short_name),
            op,
            location=location,
            attributes=dict(attributes),
            graph=self,
        )
        node.results = tuple(Value(type, node, index) for index, type in enumerate(types))
        self._link(node, before)
        for operand_name, operand in operands.items():
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
            target._uses[id(output), "target", None] = Use(output, "target")
        self.outputs.append(output)
        return output

    # editing

    def set_operand(self, node: Node, name: str, operand: Any) -> None:
        """Make `operand` (a value, a list, or None to remove it) what `node` reads under `name`."""
        operands: dict[str, Any] = node.operands  # type: ignore[assignment]
        for _, index, value in values_in({name: operands[name]} if name in operands else {}):
            del value._uses[id(node), name, index]
        if operand is None:
            operands.pop(name, None)
            return
        if isinstance(operand, list):
            operand = tuple(operand)
        operands[name] = operand
        for _, index, value in values_in({name: operand}):
            value._uses[id(node), name, index] = Use(node, name, index)

    def set_output(self, output: Output, value: Value | None) -> None:
        """Make `value` what `output` returns or writes."""
        if output.value is not None:
            del output.value._uses[id(output), "value", None]
        output.value = value
        if value is not None:
            value._uses[id(output), "value", None] = Use(output, "value")

    def replace_uses(self, old: Value, new: Value, *, where: Callable[[Use], bool] | None = None) -> list[Use]:
        """Let every use of `old` (that `where` accepts) read `new`; return the uses moved. Mutation targets
        stay."""
        moved = [u for u in old.uses if u.operand != "target" or isinstance(u.user, Node)]
        moved = [u for u in moved if where is None or where(u)]
        for use in moved:
            if isinstance(use.user, Output):
                self.set_output(use.user, new)
            elif use.index is None:
                self.set_operand(use.user, use.operand, new)
            else:
                items = list(use.user.operands[use.operand])
                items[use.index] = new
                self.set_operand(use.user, use.operand, items)
        return moved

    def erase(self, node: Node) -> None:
        """Remove a node whose results nobody reads."""
        for result in node.results:
            if result._uses:
                user = next(iter(result._uses.values())).user
                raise GraphError(f"cannot erase {node.name}: {user.name} still reads it")
        for name in list(node.operands):
            self.set_operand(node, name, None)
        before, after = node._previous, node._next
        if before is None:
            self._first = after
        else:
            before._next = after
        if after is None:
            self._last = before
        else:
            after._previous = before
        # `node._next` stays: an iteration standing on the erased node can go on.
        node.graph = self._op_index = None
        self._count -= 1
        self._names.discard(node.name)

    def erase_constant(self, constant: Constant) -> None:
        """Forget a constant nobody reads."""
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

    # whole graphs

    def clone(self) -> Graph:
        """A graph of its own with the same structure. Constant tensors are shared, not copied."""
        from graphpress.ir.cloning import clone

        return clone(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        from graphpress.ir.pickling import deepcopy_graph

        return deepcopy_graph(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        from graphpress.ir.pickling import reduce_graph

        return reduce_graph(self)

    def __eq__(self, other: object) -> bool:
        from graphpress.ir.equality import difference

        return isinstance(other, Graph) and difference(self, other) is None

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        from graphpress.ir.printer import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<graph {self.name}: {self._count} nodes>"


@define
class Signature:
    """How the flat inputs and outputs of a graph nest in the user's call.

    `argument_names` names the flat inputs' top-level parameters; the specs are torch's serialized pytree specs.
    """

    argument_names: tuple[str, ...]
    in_spec: str
    out_spec: str


class NodeList(Sequence[Node]):
    """A view of a graph's nodes in execution order."""

    def __init__(self, graph: Graph):
        self._graph = graph

    def __len__(self) -> int:
        return self._graph._count

    def __iter__(self) -> Iterator[Node]:
        node = self._graph._first
        while node is not None:
            yield node
            node = node._next
            while node is not None and node.graph is None:  # erased while we stood before it
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

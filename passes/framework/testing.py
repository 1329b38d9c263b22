"""Testing passes: a builder of small graphs, and assertions that hold a pass to what it promises.

`GraphBuilder` writes a graph down in a few lines:

    build = GraphBuilder()
    x = build.input("x", f32[2, 4])
    weight = build.constant("weight", torch.ones(3, 4))
    graph = build.outputs(build.aten.relu(build.aten.linear(x, weight)))

The assertions take any valid graph, so that a property test can generate them, and raise `AssertionError`. Before
relying on a property, check that a pass that breaks it is rejected.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from attrs import define, field, frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.location import Location, ModuleScope, Origin
from graphpress.ir.ops import lookup_op
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import Dim, SymDim, TensorType, Type
from graphpress.ir.verifier import verify
from graphpress.passes.framework.effects import EXACT, Drift, Effect
from graphpress.passes.framework.numerics import compare, execute
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.records import RunResult
from graphpress.passes.framework.runner import Runner, run_pass

__all__ = [
    "ElementType",
    "GraphBuilder",
    "OpBuilder",
    "assert_effect",
    "assert_idempotent",
    "assert_independent",
    "bf16",
    "boolean",
    "f16",
    "f32",
    "f64",
    "i8",
    "i32",
    "i64",
    "op_names",
    "renamed",
    "reordered",
    "u8",
]


@frozen
class ElementType:
    """Makes tensor types in the notation of the text form: ``f32[2, 3]``, ``f32["s0", 4]``, ``f32[()]``.

    Those of common element types are constants of this module; ``ElementType(DType.INT4)[8]`` makes any other.
    """

    dtype: DType

    def __getitem__(self, shape: Dim | str | Sequence[Dim | str]) -> TensorType:
        """The type of a tensor of `shape`. A string is a symbolic dim."""
        dims = [shape] if isinstance(shape, int | str | SymDim) else shape
        return TensorType(self.dtype, [SymDim(dim) if isinstance(dim, str) else dim for dim in dims])


f64 = ElementType(DType.FLOAT64)
f32 = ElementType(DType.FLOAT32)
f16 = ElementType(DType.FLOAT16)
bf16 = ElementType(DType.BFLOAT16)
i64 = ElementType(DType.INT64)
i32 = ElementType(DType.INT32)
i8 = ElementType(DType.INT8)
u8 = ElementType(DType.UINT8)
boolean = ElementType(DType.BOOL)


@define(eq=False)
class GraphBuilder:
    """Appends inputs, constants and nodes to a graph, in the order of the calls.

    ``build.aten.add.Tensor(x, y, alpha=2)`` appends a node of the op ``aten.add.Tensor`` and returns its result;
    ``build.quant`` does so for the ops of graphpress, and `op` and `node` take any op by name. Result types are
    inferred. Every node gets a location: the module ``block.<name of the node>`` and a line of ``model.py``.

    Attributes:
        graph: the graph that is built; pass one to append to it.
    """

    graph: Graph = field(factory=Graph)

    def input(self, name: str = "x", type: Type = f32[2, 4]) -> Value:
        """Append an input."""
        graph_input = self.graph.add_input(name, type)
        assert graph_input.value is not None
        return graph_input.value

    def constant(
        self, name: str, tensor: torch.Tensor, kind: str = "parameter", *, type: TensorType | None = None
    ) -> Value:
        """Add a constant.

        Args:
            name: its name in the graph and in the model; a number is appended if it is taken.
            tensor: the data.
            kind: ``parameter``, ``buffer`` or ``literal``.
            type: for sub-byte codes, which `tensor` holds in a wider dtype.
        """
        return self.graph.add_constant(name, tensor, kind, type=type).value

    @property
    def aten(self) -> OpBuilder:
        """The ops of torch."""
        return OpBuilder(self, "aten")

    @property
    def quant(self) -> OpBuilder:
        """The ops of compressed values."""
        return OpBuilder(self, "quant")

    def op(self, op: str, /, *arguments: Any, **options: Any) -> Value:
        """Append a node, as `node` does, and return its only result.

        Raises:
            GraphError: for an op with several results: use `node`.
        """
        return self.node(op, *arguments, **options).result

    def node(
        self,
        op: str,
        /,
        *arguments: Any,
        name: str | None = None,
        types: Iterable[Type] | None = None,
        location: Location | None = None,
        annotations: Iterable[Any] = (),
        **named_arguments: Any,
    ) -> Node:
        """Append a node.

        Args:
            op: the full name, with the overload: ``aten.max.dim``.
            arguments: in the order of the op's schema. Values and sequences with values become operands, everything
                else attributes; those that equal the schema's default are left out.
            name: the node's name; the op's, unless given.
            types: the result types, for ops whose types cannot be inferred.
            location: where the node comes from in the model.
            annotations: instances of annotation classes.
            named_arguments: further arguments, by the names in the schema.

        Raises:
            OpError: for an unknown op, and for too many arguments.
            GraphError: when the types cannot be inferred.
        """
        bound = lookup_op(op).bind(arguments, named_arguments)
        operands = {key: argument for key, argument in bound.items() if _holds_values(argument)}
        attributes = {key: given for key, given in bound.items() if key not in operands}
        node = Rewriter(self.graph).insert_before(None, op, operands, attributes, name=name, types=types)
        if location is None:
            scopes = (ModuleScope("", "Model"), ModuleScope(f"block.{node.name}", f"lib.{node.op.short_name.title()}"))
            location = Location((Origin(scopes, "model.py", 10 + len(self.graph.nodes)),))
        node.location = location
        node.annotations.update({type(annotation): annotation for annotation in annotations})
        return node

    def write(self, target: Value, value: Value) -> None:
        """Let a run of the graph write `value` to `target`, a buffer or an input."""
        kind = "buffer_mutation" if isinstance(target.producer, Constant) else "input_mutation"
        self.graph.add_output(value, kind, target=target)

    def outputs(self, *values: Value) -> Graph:
        """Append `values` to what the graph returns.

        Returns:
            the graph, verified.

        Raises:
            VerificationError: when the graph is invalid, by a dangling constant for example.
        """
        for value in values:
            self.graph.add_output(value)
        verify(self.graph)
        return self.graph


@frozen
class OpBuilder:
    """An op of a `GraphBuilder`, or the beginning of its name: ``build.aten``, ``build.aten.add``."""

    builder: GraphBuilder
    name: str

    def __getattr__(self, part: str) -> OpBuilder:
        """The name with one more part, after a dot."""
        if part.startswith("__"):
            raise AttributeError(part)
        return OpBuilder(self.builder, f"{self.name}.{part}")

    def __call__(self, /, *arguments: Any, **options: Any) -> Value:
        """Append a node of this op and return its only result; the arguments are those of `GraphBuilder.node`."""
        return self.builder.op(self.name, *arguments, **options)


def _holds_values(argument: Any) -> bool:
    if isinstance(argument, list | tuple):
        return any(isinstance(item, Value) for item in argument)
    return isinstance(argument, Value)


def op_names(graph: Graph) -> list[str]:
    """The ops of the nodes in execution order, without dialect and overload."""
    return [node.op.short_name for node in graph.nodes]


def assert_effect(pass_: Pass, graph: Graph, inputs: Sequence[Any], *, changes: bool = True) -> RunResult:
    """Run `pass_` on a copy of `graph` and check the contract of passes.

    The result must be valid; its outputs and writes must be within the pass's effect of the original ones; facts that
    the pass gives are checked by the runner; the input graph must be unchanged; every node must have a location if all
    had one before.

    Args:
        pass_: the pass.
        graph: a valid graph.
        inputs: flat inputs that exercise the changed nodes.
        changes: whether the pass must edit the graph, so that the property cannot hold trivially.

    Raises:
        AssertionError: for the first violation.
    """
    verify(graph)
    original = graph.clone()
    had_locations = all(node.location.origins for node in graph.nodes)
    before = execute(graph, inputs)
    result = run_pass(pass_, graph)
    assert graph == original, f"{pass_} changed its caller's graph"
    if changes:
        assert result.changed, f"{pass_} changed nothing"
    if had_locations:
        lost = [node.name for node in result.graph.nodes if not node.location.origins]
        assert not lost, f"{pass_} made nodes without a location: {lost}"
    drifts = compare(before, execute(result.graph, inputs), pass_.effect)
    _assert_within(pass_.effect, drifts, str(pass_), result.graph)
    result.records[0].drift = drifts
    return result


def assert_idempotent(pass_: Pass, graph: Graph) -> None:
    """Check that a second run of `pass_` changes nothing.

    Raises:
        AssertionError: if it does; the message has the number of edits.
    """
    once = run_pass(pass_, graph).graph
    twice = run_pass(pass_, once)
    assert not twice.changed, f"{pass_} is not idempotent: {twice.records[0]}"


def assert_independent(
    pipeline: Pipeline, graph: Graph, inputs: Sequence[Any], *, effect: Effect = EXACT, seed: int = 0
) -> None:
    """Check that the result of `pipeline` does not depend on the names or the order of independent nodes.

    The ops of the result and its outputs must be the same.

    Args:
        pipeline: the pipeline.
        graph: a valid graph without random ops, because random numbers depend on their order.
        inputs: flat inputs of it.
        effect: how far the outputs may differ.
        seed: for the names and the order.

    Raises:
        AssertionError: if it does; the message says on which.
    """
    shuffler = random.Random(seed)
    expected = Runner().run(graph, pipeline).graph
    outputs = execute(expected, inputs)
    for what, other in (("names", renamed(graph, shuffler)), ("orders", reordered(graph, shuffler))):
        found = Runner().run(other, pipeline).graph
        same_ops = _ops(found) == _ops(expected)
        assert same_ops, f"the ops left by {pipeline} depend on the {what} of nodes:\n{expected}\n{found}"
        _assert_within(
            effect, compare(outputs, execute(found, inputs), effect), f"{pipeline}, with other {what} of nodes,"
        )


def renamed(graph: Graph, shuffler: random.Random) -> Graph:
    """A copy of `graph` with other node names, and nothing else changed."""
    made = graph.clone()
    nodes = list(made.nodes)
    names = [f"n{number}" for number in range(len(nodes))]
    shuffler.shuffle(names)
    taken = {graph_input.name for graph_input in made.inputs}
    made._names, made._suffixes = set(taken), {}
    for node, name in zip(nodes, names, strict=True):
        node.name = made.fresh_name(name)
    return made


def reordered(graph: Graph, shuffler: random.Random) -> Graph:
    """A copy of `graph` with its nodes in another valid order; nodes with side effects keep their relative order."""
    made = graph.clone()
    waiting = list(made.nodes)
    known = {id(value) for value in made.values() if value.node is None}
    order: list[Node] = []
    while waiting:
        effect = next((node for node in waiting if not node.op.is_pure), None)
        allowed = (node for node in waiting if node.op.is_pure or node is effect)
        free = [node for node in allowed if all(id(read) in known for _, _, read in node.operand_values())]
        node = shuffler.choice(free)
        waiting.remove(node)
        known.update(id(result) for result in node.results)
        order.append(node)
    if not order:
        return made
    made._first, made._last, made._op_index = order[0], order[-1], None
    for node, before, after in zip(order, [None, *order[:-1]], [*order[1:], None], strict=True):
        node._previous, node._next = before, after
    return made


def _assert_within(effect: Effect, drifts: Sequence[Drift], who: str, graph: Graph | None = None) -> None:
    for drift in drifts:
        assert drift.is_held, (
            f"{who} is {effect}, but moved output {drift.output!r} by {drift.error:.6g}, "
            f"{drift.allowed:.6g} being allowed" + ("" if graph is None else f":\n{graph}")
        )


def _ops(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.nodes)

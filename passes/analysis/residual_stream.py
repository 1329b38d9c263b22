"""Residual streams: values that an orthogonal matrix may be applied to, because all that touches them commutes with it.

A stream is closed: it contains every operand and result that a sum, a move, a cast, a product with one number per
position or a norm without weights connects. It ends at sources, whose results a matrix can be folded into (linear
layers, convolutions, embeddings, constants), at sinks, which sum over its channels, and at sums of squares, which an
orthogonal matrix does not change. Axes are counted from the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, field, frozen

from graphpress.ir.graph import Graph, Node, Output, Use, Value
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.channel_flow import matrix_of
from graphpress.passes.analysis.channel_numbers import Untracked, axis_of, hints_of, moved, numbered, only_moves
from graphpress.passes.analysis.constants import is_constant, is_idle_dropout
from graphpress.passes.analysis.layers import layer_of
from graphpress.passes.analysis.weights import is_compressed, is_sparse

_SUMS = frozenset({"add", "sub"})
_ALIKE = frozenset({"neg", "to", "_to_copy", "type_as", "contiguous", "alias", "detach", "clone"})
_NORMS = frozenset({"rms_norm", "layer_norm"})
_REDUCTIONS = frozenset({"mean", "sum"})
_DATA = ("self", "input", "tensor")


@frozen
class Edge:
    """A constant operand whose `axis`, counted from the end, has the channels of the stream."""

    node: Node
    operand: str
    index: int | None
    axis: int


@frozen(eq=False)
class ResidualStream:
    """A stream of which every touch is known.

    Attributes:
        channels: the number of its channels.
        sources: the constants that its values are made with.
        sinks: the weights of the layers that sum over its channels.
        layer_norms: the layer norms without weights in it; centred values are their results.
    """

    channels: int
    sources: tuple[Edge, ...]
    sinks: tuple[Edge, ...]
    layer_norms: tuple[Node, ...]


@frozen
class Refusal:
    """The reason why the values around a norm are not a stream."""

    norm: Node
    reason: str


def residual_streams(graph: Graph) -> Iterator[ResidualStream | Refusal]:
    """Find the stream around each norm without weights; a norm that is written out counts too."""
    seen: set[Value] = set()
    for node in graph.nodes:
        seed = _normalized(node)
        if seed is None or seed in seen:
            continue
        channels = seed.tensor_type.shape[-1]
        assert isinstance(channels, int)
        walk = _Walk(hints_of(graph), channels)
        try:
            walk.run(seed)
            yield walk.stream(graph)
        except Untracked as reason:
            yield Refusal(node, str(reason))
        seen |= walk.axes.keys()


def _normalized(node: Node) -> Value | None:
    """Return the operand of a norm over the last axis, or of a mean of squares over it."""
    value = None
    if node.op.dialect == "aten" and node.op.family in _NORMS:
        value = node.operand("input")
    elif node.op.dialect == "aten" and node.op.family == "mean" and _reduced(node) == {-1}:
        squared = node.operand("self")
        producer = None if squared is None else squared.node
        value = None if producer is None or not _is_square(producer) else producer.operand("self")
    if value is None or not isinstance(value.type, TensorType) or not value.type.rank:
        return None
    return value if isinstance(value.type.shape[-1], int) else None


@define(eq=False)
class _Walk:
    hints: dict[str, int]
    channels: int
    axes: dict[Value, int] = field(factory=dict)
    sources: dict[Edge, None] = field(factory=dict)
    sinks: dict[Edge, None] = field(factory=dict)
    layer_norms: dict[Node, None] = field(factory=dict)
    _reads: list[Value] = field(factory=list)  # what sinks and sums of squares read
    _pending: list[Value] = field(factory=list)
    _seen: set[Value] = field(factory=set)

    def run(self, seed: Value) -> None:
        self._add(seed, -1)
        while self._pending:
            value = self._pending.pop()
            if value.node is None:
                raise Untracked(f"{value.name} is an input of the graph")
            self._visit(value.node, value, None)
            for use in value.uses:
                if isinstance(use.user, Output):
                    raise Untracked(f"{value.name} is an output of the graph")
                self._visit(use.user, value, use)

    def stream(self, graph: Graph) -> ResidualStream:
        """Return what was found, if a subtraction of the mean in all sources replaces that of layer norms."""
        if self.layer_norms:
            centred = self._centred(graph)
            for value in self._reads:
                if value not in centred:
                    raise Untracked(
                        f"{value.name} is read with its mean, which layer norms elsewhere in the stream subtract"
                    )
        return ResidualStream(self.channels, tuple(self.sources), tuple(self.sinks), tuple(self.layer_norms))

    def _centred(self, graph: Graph) -> set[Value]:
        found: set[Value] = set()
        for node in graph.nodes:
            operands = [value for _, _, value in node.operand_values() if value in self.axes]
            results = [value for value in node.results if value in self.axes]
            is_norm = node.op.family == "layer_norm"
            if results and (is_norm or (operands and all(value in found for value in operands))):
                found.update(results)
        return found

    def _add(self, value: Value, axis: int) -> None:
        if self.axes.setdefault(value, axis) != axis:
            raise Untracked(f"the channels of {value.name} are on two axes")
        if value not in self._seen:
            self._seen.add(value)
            self._pending.append(value)

    def _join(self, node: Node, operand: str, index: int | None, value: Value, axis: int) -> None:
        """Add an operand to the stream, or to its sources if it is a constant."""
        if -axis > value.tensor_type.rank or value.tensor_type.shape[axis] != self.channels:
            raise Untracked(f"{node.name} adds {value.name} to all channels alike")
        if not is_constant(value):
            self._add(value, axis)
            return
        if is_compressed(value) or is_sparse(value):
            raise Untracked(f"{value.name}, which {node.name} reads, is stored in compressed form")
        self.sources[Edge(node, operand, index, axis)] = None

    def _visit(self, node: Node, value: Value, use: Use | None) -> None:
        """Follow one op from `value`: its result where `use` is None, else the operand of that use."""
        family, axis = node.op.family, self.axes[value]
        if node.op.has(Trait.SYMBOLIC) or not any(isinstance(each.type, TensorType) for each in node.results):
            return
        if node.op.dialect != "aten":
            raise Untracked(f"{node.name} ({node.op.name}) {'makes' if use is None else 'reads'} it")
        if family in _SUMS and node.attributes.get("alpha", 1) == 1 and node.operand("other") is not None:
            self._add(node.result, axis)
            for name, index, operand in node.operand_values():
                self._join(node, name, index, operand, axis)
        elif only_moves(node) and family not in _ALIKE:
            self._move(node, value, use)
        elif family in _ALIKE or is_idle_dropout(node):
            self._alike(node, axis)
        elif family in ("mul", "div"):
            self._product(node, value, use, axis)
        elif family in _NORMS:
            self._norm(node, axis, use)
        elif family in _REDUCTIONS:
            self._reduction(node, value, use)
        elif family == "concat":
            self._concatenation(node, axis)
        elif use is None:
            self._source(node, axis)
        elif _is_square(node):
            self._square(node, value, axis)
        else:
            self._sink(node, value, use, axis)

    def _alike(self, node: Node, axis: int) -> None:
        name = next(name for name in _DATA if node.operand(name) is not None)
        self._join(node, name, None, node.operands[name], axis)
        if not node.result.is_floating:
            raise Untracked(f"{node.name} makes integers of it")
        self._add(node.result, axis)

    def _move(self, node: Node, value: Value, use: Use | None) -> None:
        name = next((name for name in _DATA if isinstance(node.operands.get(name), Value)), None)
        if name is None or (use is not None and use.operand != name):
            raise Untracked(f"{node.name} ({node.op.name}) reads it")
        data: Value = node.operands[name]
        place = None if use is not None else next(i for i, each in enumerate(node.results) if each is value)
        for axis in [self.axes[value]] if use is not None else range(-1, -data.tensor_type.rank - 1, -1):
            if data.tensor_type.shape[axis] != self.channels:
                continue
            numbers = moved(node, name, numbered(data, axis, self.hints), self.hints)
            found = [axis_of(each, self.channels) for each in numbers]
            if None not in found and (place is None or found[place] == self.axes[value]):
                self._join(node, name, None, data, axis)
                for result, its_axis in zip(node.results, found, strict=True):
                    assert its_axis is not None
                    self._add(result, its_axis)
                return
        raise Untracked(f"{node.name} ({node.op.name}) takes its channels apart")

    def _product(self, node: Node, value: Value, use: Use | None, axis: int) -> None:
        if use is not None and _is_square(node):
            self._square(node, value, axis)
            return
        if node.attributes.get("rounding_mode") is not None:
            raise Untracked(f"{node.name} rounds it")
        wide = [
            (name, operand)
            for name, _, operand in node.operand_values()
            if operand.tensor_type.rank >= -axis and operand.tensor_type.shape[axis] != 1
        ]
        if len(wide) != 1 or (node.op.family == "div" and wide[0][0] != "self"):
            raise Untracked(f"{node.name} ({node.op.name}) multiplies its channels by different factors")
        self._join(node, wide[0][0], None, wide[0][1], axis)
        self._add(node.result, axis)

    def _norm(self, node: Node, axis: int, use: Use | None) -> None:
        if use is not None and use.operand != "input":
            raise Untracked(f"{node.name} ({node.op.name}) reads it")
        if node.operand("weight") is not None or node.operand("bias") is not None:
            raise Untracked(f"{node.name} has a weight for each channel, which its readers cannot take")
        if tuple(node.attributes.get("normalized_shape", ())) != (self.channels,) or axis != -1:
            raise Untracked(f"{node.name} normalizes over other axes than the channels")
        value = node.operands["input"]
        if node.op.family == "layer_norm":
            self.layer_norms[node] = None
        else:
            self._reads.append(value)
        self._join(node, "input", None, value, axis)
        self._add(node.result, axis)

    def _reduction(self, node: Node, value: Value, use: Use | None) -> None:
        data = node.operand("self")
        reduced = _reduced(node)
        if data is None or reduced is None:
            raise Untracked(f"{node.name} ({node.op.name}) sums over its channels")
        kept = [axis for axis in range(-data.tensor_type.rank, 0) if axis not in reduced]
        keepdim = bool(node.attributes.get("keepdim"))
        axis = self.axes[value]
        if use is None and not keepdim:
            axis = kept[len(kept) + axis]
        if axis in reduced:
            raise Untracked(f"{node.name} ({node.op.name}) sums over its channels")
        self._join(node, "self", None, data, axis)
        self._add(node.result, axis if keepdim else kept.index(axis) - len(kept))

    def _concatenation(self, node: Node, axis: int) -> None:
        rank = node.result.tensor_type.rank
        if node.attributes.get("dim", 0) % rank == axis % rank:
            raise Untracked(f"{node.name} joins its channels with others")
        self._add(node.result, axis)
        for name, index, operand in node.operand_values():
            self._join(node, name, index, operand, axis)

    def _source(self, node: Node, axis: int) -> None:
        """Add the weights of a layer or an embedding that makes values of the stream."""
        layer = layer_of(node)
        if layer is not None and not layer.is_transposed and layer.groups == 1:
            rank = node.result.tensor_type.rank
            if layer.out_features_axis(rank) - rank != axis:
                raise Untracked(f"{node.name} makes its channels on another axis")
            parts = {"weight": -node.operands["weight"].tensor_type.rank, "bias": -1}
        elif node.op.family in ("mm", "matmul", "addmm"):
            if axis != -1 or (node.op.family == "addmm" and {node.attribute("alpha"), node.attribute("beta")} != {1}):
                raise Untracked(f"{node.name} makes its channels on another axis, or scaled")
            parts = {"mat2": -1, "self": -1} if node.op.family == "addmm" else {"mat2": -1, "other": -1}
        elif node.op.family == "embedding":
            if axis != -1:
                raise Untracked(f"{node.name} makes its channels on another axis")
            parts = {"weight": -1}
        else:
            raise Untracked(f"{node.name} ({node.op.name}) makes it")
        for name, part_axis in parts.items():
            value = node.operand(name)
            if value is not None:
                self.sources[self._weight(node, name, value, part_axis)] = None

    def _sink(self, node: Node, value: Value, use: Use, axis: int) -> None:
        rank = value.tensor_type.rank
        matrix = matrix_of(node, use.operand)
        if matrix is not None and axis == -1:
            name, summed = matrix
            self.sinks[self._weight(node, name, node.operands[name], summed - 2)] = None
            self._reads.append(value)
            return
        layer = layer_of(node)
        if layer is None or use.operand != "input" or layer.is_transposed or layer.groups != 1:
            raise Untracked(f"{node.name} ({node.op.name}) reads it")
        if layer.in_features_axis(rank) - rank != axis:
            raise Untracked(f"{node.name} sums over another axis than its channels")
        weight = node.operands["weight"]
        self.sinks[self._weight(node, "weight", weight, 1 - weight.tensor_type.rank)] = None
        self._reads.append(value)

    def _weight(self, node: Node, name: str, value: Value, axis: int) -> Edge:
        if not is_constant(value):
            raise Untracked(f"the {name} of {node.name} is computed by the model, not a constant")
        if is_compressed(value) or is_sparse(value):
            raise Untracked(f"the {name} of {node.name} is stored in compressed form")
        return Edge(node, name, None, axis)

    def _square(self, node: Node, value: Value, axis: int) -> None:
        """Accept a square of which only sums over the channels are read."""
        users: Sequence[Use] = node.result.uses
        if not users or not all(isinstance(use.user, Node) and _reduced(use.user) == {axis} for use in users):
            raise Untracked(f"{node.name} ({node.op.name}) squares single channels")
        self._reads.append(value)


def _is_square(node: Node) -> bool:
    family = node.op.family
    if family == "mul":
        return node.operand("self") is node.operand("other")
    return family == "square" or (family == "pow" and node.attributes.get("exponent") == 2)


def _reduced(node: Node) -> set[int] | None:
    """Return the axes, counted from the end, that a mean or sum is over; None for another op and for all axes."""
    dims, data = node.attributes.get("dim"), node.operand("self")
    if node.op.family not in _REDUCTIONS or data is None or not dims:
        return None
    rank = data.tensor_type.rank
    return {dim % rank - rank for dim in ((dims,) if isinstance(dims, int) else dims)}

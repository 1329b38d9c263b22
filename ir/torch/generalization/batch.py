"""Generalization of the batch dim of a captured graph to a symbol."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from attrs import define, field

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import Trait, lookup_op
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.generalization.affine import Affine, Clash, NotProven, Samples
from graphpress.ir.torch.generalization.matching import Match, match
from graphpress.ir.torch.generalization.tracing import trace_at
from graphpress.ir.types import ScalarType, Symbol, TensorType

# Larger numbers are limits ("to the end"), not sizes.
_LARGEST_SIZE = 2**31
# Further runs after clashing batch sizes; most of them end early.
_RUNS_PER_INPUT = 3


@define(eq=False)
class Generalization:
    """A proof that a graph is valid at every batch size after substitution of its numbers.

    Attributes:
        symbols: the symbol of each input's first dim, if any.
        samples: the batch sizes of the example.
        match: the shapes and arguments that depend on the batch.
    """

    graph: Graph
    symbols: list[str | None]
    samples: Samples
    match: Match

    @property
    def is_needed(self) -> bool:
        """False if the graph is valid at every batch size without changes."""
        return bool(self.match.arguments)

    def apply(self) -> None:
        """Substitute the expressions in types and arguments, in the form that torch.export uses."""
        numbers = _Numbers(self.graph)
        for graph_input, symbol in zip(self.graph.inputs, self.symbols, strict=True):
            if symbol is None or graph_input.value is None:
                continue
            batch = Affine({symbol: 1})
            type = graph_input.value.tensor_type
            graph_input.value.type = TensorType(type.dtype, [batch.as_dim(), *type.shape[1:]])
            numbers.sources.setdefault(symbol, graph_input.value)
            # torch treats dims of size 1 as constants, as a later export would.
            self.graph.symbols[symbol] = Symbol(2, None, max(2, self.samples.example[symbol]))
        for value, shape in self.match.shapes.items():
            dims = [Affine.of(size).as_dim() for size in shape]
            value.type = TensorType(value.tensor_type.dtype, dims)
        for node, arguments in self.match.arguments.items():
            for name, argument in arguments.items():
                node.attributes.pop(name, None)
                self.graph.set_operand(node, name, numbers.with_values(argument))


def prove(graph: Graph, module: torch.nn.Module, arguments: Arguments | tuple[Any, ...]) -> Generalization:
    """Prove that `graph`, captured from `module` in eval mode with `arguments`, is valid at every batch size.

    The batch is the first dim of every tensor argument. Several arguments share one symbol if the model requires equal
    batch sizes; a first dim that must have its example value stays constant.

    Raises:
        NotProven: if the proof fails. The graph is unchanged.
    """
    _check_graph(graph)
    arguments = Arguments.of(arguments)
    leaves = arguments.leaves
    if len(leaves) != len(graph.inputs):
        raise NotProven("the inputs of the graph differ from those of the model")
    with_batch = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.ndim]
    symbols: list[str | None] = [None] * len(leaves)
    for count, place in enumerate(with_batch):
        symbols[place] = f"s{count}"
    largest = _largest_number(graph)
    waiting = deque([symbols])
    last = ""
    for _ in range(_RUNS_PER_INPUT * len(with_batch)):
        if not waiting:
            break
        symbols = waiting.popleft()
        example = {symbol: leaves[place].shape[0] for place, symbol in enumerate(symbols) if symbol is not None}
        if not example:
            continue
        try:
            trace = trace_at(module, arguments, symbols, Samples.choose(example, largest), len(graph.nodes))
        except Clash as clash:
            waiting += _resolutions(symbols, clash, example)
            last = f": {clash}"
        else:
            return Generalization(graph, symbols, trace.samples, match(graph, trace))
    raise NotProven(f"the model does not run at other batch sizes{last}")


def _check_graph(graph: Graph) -> None:
    if any(output.kind != "user" for output in graph.outputs):
        raise NotProven("the model writes to its buffers or inputs")
    if graph.symbols:
        raise NotProven("the graph has symbols already")
    for node in graph.nodes:
        if node.op.has(Trait.OPAQUE) or node.op.has(Trait.EFFECT) or node.op.has(Trait.IN_PLACE):
            raise NotProven(f"the graph calls {node.op.name}")


def _resolutions(symbols: list[str | None], clash: Clash, example: dict[str, int]) -> Iterator[list[str | None]]:
    """Yield symbol assignments to try after a clash, the likely one first.

    Two equal sizes may be one batch. Otherwise the batch is that of the first input, and the other dim is constant.
    """

    def replaced(old: str, new: str | None) -> list[str | None]:
        return [new if symbol == old else symbol for symbol in symbols]

    if not clash.symbols:
        raise NotProven(str(clash), reads_batch=True)
    first, *others = sorted(clash.symbols, key=symbols.index)[:2]
    if others and example[first] == example[others[0]]:
        yield replaced(others[0], first)
    yield replaced(others[0] if others else first, None)


def _largest_number(graph: Graph) -> int:
    """Return an upper bound for the sizes in the graph."""
    numbers = [1]
    for value in graph.values():
        if isinstance(value.type, TensorType):
            numbers += [size for size in value.type.shape if isinstance(size, int)]
    for node in graph.nodes:
        for number in pytree.tree_leaves(list(node.attributes.values())):
            if type(number) is int and abs(number) < _LARGEST_SIZE:
                numbers.append(abs(number))
    return max(numbers)


@define(eq=False)
class _Numbers:
    """Inserts the nodes that compute sizes, each once, at the beginning of the graph."""

    graph: Graph
    sources: dict[str, Value] = field(factory=dict)
    _made: dict[str, Value] = field(factory=dict)
    _before: Node | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._before = next(iter(self.graph.nodes), None)

    def with_values(self, argument: Any) -> Any:
        """Replace the expressions in `argument` by values."""
        if isinstance(argument, tuple):
            return tuple(self.with_values(item) for item in argument)
        return self._value(argument) if isinstance(argument, Affine) else argument

    def _value(self, form: Affine) -> Value:
        dim = str(form.as_dim())
        if dim not in self._made:
            self._made[dim] = self._compute(form)
        return self._made[dim]

    def _compute(self, form: Affine) -> Value:
        if form.constant:
            multiple = self._value(Affine(form.factors))
            return self._insert("sym.add", {"arg0": multiple}, {"arg1": form.constant}, form)
        (name, factor), *others = form.factors.items()
        if others:
            rest = self._value(Affine(dict(others)))
            return self._insert("sym.add", {"arg0": self._value(Affine({name: factor})), "arg1": rest}, {}, form)
        if factor != 1:
            return self._insert("sym.mul", {"arg0": self._value(Affine({name: 1}))}, {"arg1": factor}, form)
        return self._insert("aten.sym_size.int", {"self": self.sources[name]}, {"dim": 0}, form)

    def _insert(self, op: str, operands: dict[str, Any], attributes: dict[str, Any], form: Affine) -> Value:
        type = ScalarType("int", form.as_dim())
        return self.graph.insert(lookup_op(op), operands, attributes, [type], before=self._before).result
